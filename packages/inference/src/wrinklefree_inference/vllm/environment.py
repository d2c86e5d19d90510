"""The environment that has vLLM and the plug-in: found, and asked whether it has both."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wf_formats.errors import RequestError
from wf_formats.printable import printable

MAKE = "sh packages/plugins/vllm/scripts/environment"
"""Of a checkout; makes one in the folder that follows."""
PLUGIN = "wrinklefree"
"""Entry point of the plug-in."""
KEY_VARIABLE = "VLLM_API_KEY"
_PROGRAM = Path(__file__).with_name("facts_program.py")
_ASK_S = 60.0
_OURS = ("WF_API_KEY", "WF_UPSTREAM_API_KEY")
_QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}


def find_python(folder: Path | None) -> Path:
    """The Python of the environment.

    Args:
        folder: the environment, or its Python.

    Raises:
        RequestError: it is none, or lacks vLLM or the plug-in; the message says what to do.
    """
    if folder is None:
        raise RequestError(
            f"vLLM is not part of this environment: make one for it (`{MAKE} FOLDER`), and say where with "
            "--vllm FOLDER or $WF_VLLM"
        )
    folder = folder.expanduser().absolute()
    python = folder / "bin" / "python" if folder.is_dir() else folder
    if not (python.is_file() and os.access(python, os.X_OK)):
        raise RequestError(f"--vllm {folder}: there is no {python}; `{MAKE} {folder}` makes it")
    facts = _facts(python, folder)
    if facts.get("vllm") is not True:
        raise RequestError(f"--vllm {folder}: vLLM is not installed there; `{MAKE} NEW` makes an environment")
    if PLUGIN not in facts["plugins"]:
        raise RequestError(
            f"--vllm {folder}: the plug-in wrinklefree-vllm is not installed there: "
            f"uv pip install --python {python} ./packages/plugins/vllm"
        )
    return python


def environment_of(python: Path, key: str, num_threads: int) -> dict[str, str]:
    """Variables of a server: its key, its threads and where it finds its tools, without keys of ours.

    All cores stay open to all threads (`nobind`): vLLM would bind each of its own to a core, and the threads
    of our kernels with the one that starts them.
    """
    kept: Mapping[str, str] = {name: value for name, value in os.environ.items() if name not in _OURS}
    path = os.pathsep.join(filter(None, [str(python.parent), kept.get("PATH")]))
    threads = {"OMP_NUM_THREADS": str(num_threads), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    return {**kept, **_QUIET, **threads, KEY_VARIABLE: key, "VLLM_PLUGINS": PLUGIN, "PATH": path}


def _facts(python: Path, folder: Path) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [python, "-I", _PROGRAM], capture_output=True, text=True, timeout=_ASK_S, check=False
        )
        facts = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        reason = printable(str(error), most_chars=200)
        raise RequestError(f"--vllm {folder}: {python} is no Python of an environment: {reason}") from error
    if not isinstance(facts, dict):
        raise RequestError(f"--vllm {folder}: {python} is no Python of an environment")
    return facts
