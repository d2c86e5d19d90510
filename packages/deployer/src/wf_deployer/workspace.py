"""Where the workspace is: the checkout that this package was installed from (an editable install).

A copy inside site-packages has no workspace around it.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

from wf_deployer.errors import CommandError


@cache
def workspace_root(start: Path = Path(__file__)) -> Path:
    """The folder above `start` whose pyproject.toml has a `[tool.uv.workspace]` table.

    Raises:
        CommandError: there is none: `wf` was not installed from a checkout; or one above cannot be read.
    """
    for folder in start.resolve().parents:
        file = folder / "pyproject.toml"
        if file.is_file() and _is_workspace(file):
            return folder
    raise CommandError(
        f"no uv workspace above {start}: this needs a checkout; clone the repository and run `uv run wf` "
        "in it (for jobs alone: or set WF_RUNS_DIR)"
    )


def _is_workspace(file: Path) -> bool:
    try:
        return "workspace" in tomllib.loads(file.read_text()).get("tool", {}).get("uv", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CommandError(f"{file} is no TOML: {error}; mend it, or `git checkout` it") from error
