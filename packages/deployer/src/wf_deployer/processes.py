"""Foreground children: the terminal is theirs, Ctrl-C reaches them, their exit code is ours."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from types import FrameType


def run_foreground(command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Runs a child in this terminal and returns its exit code (128 + number for a signal).

    Ctrl-C reaches the child directly (same process group), so this process only waits; SIGTERM is
    passed on. The child decides how to stop.
    """
    child = subprocess.Popen(command, env=os.environ | dict(environment or {}))

    def pass_on(number: int, frame: FrameType | None) -> None:
        child.send_signal(number)

    old_int = signal.signal(signal.SIGINT, signal.SIG_IGN)
    old_term = signal.signal(signal.SIGTERM, pass_on)
    try:
        returncode = child.wait()
    finally:
        signal.signal(signal.SIGINT, old_int)
        signal.signal(signal.SIGTERM, old_term)
    return returncode if returncode >= 0 else 128 - returncode
