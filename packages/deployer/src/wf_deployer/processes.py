"""Foreground children: the terminal is theirs, Ctrl-C reaches them, their exit code is ours."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any


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


def flags(options: Mapping[str, Any]) -> list[str]:
    """Command line flags of the options that were given.

    None is left out (the application's own default holds), True is the bare flag, a list repeats it.
    """
    arguments: list[str] = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            arguments.append(flag)
        elif isinstance(value, list | tuple):
            arguments += [part for item in value for part in (flag, str(item))]
        elif value is not None and value is not False:
            arguments += [flag, str(value)]
    return arguments


def api_key_environment(key: str | None) -> dict[str, str]:
    """A key goes to the child through its environment: command lines can be read by everybody."""
    return {} if key is None else {"WF_API_KEY": key}
