"""Foreground children: the terminal is theirs, Ctrl-C reaches them, their exit code is ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import FrameType


def run_foreground(command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Runs a child in this terminal and returns its exit code (128 + number for a signal).

    Ctrl-C reaches the child directly (same process group), so this process only waits; SIGTERM is
    passed on. The child decides how to stop. A signal that neither the user nor we sent is told.
    """
    passed_on: list[int] = []
    child = subprocess.Popen(command, env=os.environ | dict(environment or {}))

    def pass_on(number: int, frame: FrameType | None) -> None:
        passed_on.append(number)
        child.send_signal(number)

    old_int = signal.signal(signal.SIGINT, signal.SIG_IGN)
    old_term = signal.signal(signal.SIGTERM, pass_on)
    try:
        returncode = child.wait()
    finally:
        signal.signal(signal.SIGINT, old_int)
        signal.signal(signal.SIGTERM, old_term)
    if returncode >= 0:
        return returncode
    if -returncode not in (signal.SIGINT, signal.SIGPIPE, *passed_on):
        sys.stderr.write(f"error: {_ended_by(-returncode)}\n")
    return 128 - returncode


def _ended_by(number: int) -> str:
    """What a child that could say nothing itself died of."""
    known = {int(known): known.name for known in signal.Signals}
    reason = "; perhaps memory ran out" if number == signal.SIGKILL else ""
    return f"the application was ended by {known.get(number, f'signal {number}')}{reason}"
