"""Where the workspace and its applications' entry points are.

The applications run as processes of this interpreter, from the checkout that this package was
installed from (an editable install); a copy inside site-packages has no workspace around it.
"""

from __future__ import annotations

import sys
import tomllib
from functools import cache
from pathlib import Path

from wf_deployer.errors import CommandError

SCRIPTS = {
    "train": "packages/training/scripts/train.py",
    "export": "packages/converter/scripts/export.py",
    "verify": "packages/converter/scripts/verify.py",
    "evaluate": "packages/eval/scripts/evaluate.py",
}


@cache
def workspace_root(start: Path = Path(__file__)) -> Path:
    """The folder above `start` whose pyproject.toml has a `[tool.uv.workspace]` table.

    Raises:
        CommandError: there is none: `wf` was not installed from a checkout.
    """
    for folder in start.resolve().parents:
        file = folder / "pyproject.toml"
        if file.is_file() and "workspace" in tomllib.loads(file.read_text()).get("tool", {}).get("uv", {}):
            return folder
    raise CommandError(
        f"no uv workspace above {start}: wf starts the applications of a checkout; clone the repository "
        "and run `uv run wf` in it"
    )


def script_command(name: str) -> list[str]:
    """Command line (without arguments) of an application's script.

    Raises:
        CommandError: the checkout lacks it.
    """
    script = workspace_root() / SCRIPTS[name]
    if not script.is_file():
        raise CommandError(f"{script} is missing: the checkout is incomplete")
    return [sys.executable, str(script)]


def module_command(module: str) -> list[str]:
    """Command line (without arguments) of a module that runs with `python -m`."""
    return [sys.executable, "-m", module]
