"""Programs that run in the workspace's Python and print one JSON value: what only its libraries can tell.

They import what they ask about by name, so that the doctor's own process stays small and a library that
crashes while it loads takes only the child with it.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wf_deployer.errors import CommandError

_MAX_CHARS = 400


def ask(python: Path, name: str, question: Any = None, *, cwd: Path, timeout_s: float = 120) -> Any:
    """What the module `name` of this package answers.

    Args:
        question: JSON that it reads from its standard input.

    Raises:
        CommandError: it crashed, took too long or printed something else.
    """
    command = [str(python), "-m", f"{__name__}.{name}"]
    done = output_of(command, cwd=cwd, stdin=json.dumps(question), timeout_s=timeout_s)
    last = done.stdout.rstrip().rpartition("\n")[2]
    try:
        if done.returncode == 0:
            return json.loads(last)
    except json.JSONDecodeError:
        pass
    words = (done.stderr.strip() or done.stdout.strip()).rpartition("\n")[2]  # of a traceback its error
    reason = words[:_MAX_CHARS] or f"exit code {done.returncode}"
    raise CommandError(f"{name} in {python}: {reason}")


def output_of(
    command: Sequence[str], *, cwd: Path, stdin: str = "", timeout_s: float = 30
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end, or until it took too long. Ctrl-C reaches it too.

    Raises:
        CommandError: it is missing or took longer.
    """
    environment = os.environ | {"NO_COLOR": "1", "HF_HUB_OFFLINE": "1"}
    try:
        return subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except OSError as error:
        raise CommandError(f"{command[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"{' '.join(command)} took longer than {timeout_s:.0f} s") from error
