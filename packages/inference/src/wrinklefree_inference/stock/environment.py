"""The environment that has a program and its plug-in: found, and asked whether it has both."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wf_formats.errors import RequestError
from wf_formats.printable import printable
from wrinklefree_inference.stock.programs import PLUGIN, Program

_PROGRAM = Path(__file__).with_name("facts_program.py")
_ASK_S = 60.0
_OURS = ("WF_API_KEY", "WF_UPSTREAM_API_KEY")


def find_python(program: Program, folder: Path | None) -> Path:
    """The Python of the environment.

    Args:
        folder: the environment, or its Python.

    Raises:
        RequestError: it is none, or lacks the program or the plug-in; the message says what to do.
    """
    name, make = program.name, program.make
    if folder is None:
        raise RequestError(
            f"{name} is not part of this environment: make one for it (`{make} FOLDER`), and say where with "
            f"{program.option} FOLDER or ${program.variable}"
        )
    folder = folder.expanduser().absolute()
    given = f"{program.option} {folder}"
    python = folder / "bin" / "python" if folder.is_dir() else folder
    if not (python.is_file() and os.access(python, os.X_OK)):
        raise RequestError(f"{given}: there is no {python}; `{make} {folder}` makes it")
    facts = _facts(program, python, given)
    if facts.get("installed") is not True:
        raise RequestError(f"{given}: {name} is not installed there; `{make} NEW` makes an environment")
    if PLUGIN not in facts["plugins"]:
        raise RequestError(
            f"{given}: the plug-in wrinklefree-{program.package} is not installed there: "
            f"uv pip install --python {python} ./{program.plugin}"
        )
    return python


def environment_of(program: Program, python: Path, key: str, num_threads: int) -> dict[str, str]:
    """Variables of a server: its key, its threads and where it finds its tools, without keys of ours."""
    kept: Mapping[str, str] = {name: value for name, value in os.environ.items() if name not in _OURS}
    path = os.pathsep.join(filter(None, [str(python.parent), kept.get("PATH")]))
    ours = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(num_threads), "PATH": path}
    return {**kept, **ours, **program.variables, program.key_variable: key}


def _facts(program: Program, python: Path, given: str) -> dict[str, Any]:
    command = [str(python), "-I", str(_PROGRAM), program.package, program.entry_points]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_S, check=False)
        facts = json.loads(done.stdout)
    except subprocess.TimeoutExpired as error:
        raise RequestError(f"{given}: {python} has not answered within {_ASK_S:.0f} s") from error
    except (OSError, ValueError) as error:
        reason = printable(str(error), most_chars=200)
        raise RequestError(f"{given}: {python} is no Python of an environment: {reason}") from error
    if not isinstance(facts, dict):
        raise RequestError(f"{given}: {python} is no Python of an environment")
    return facts
