"""Applications in the foreground: this process becomes them.

So signals of the terminal, of `kill` and of a supervisor, SIGKILL too, go to the application and to it
alone: nothing has to be passed on, nothing arrives twice, and no server outlives the `wf` that was killed.
The exit code is the application's own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn


def become(command: Sequence[str], environment: Mapping[str, str] | None = None) -> NoReturn:
    """Runs a program in place of this one; it gets terminal, folder, environment and process id.

    Args:
        command: the program by its whole path, and its arguments.
        environment: variables besides those of this process.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], list(command), os.environ | dict(environment or {}))
