"""Python in an environment of its own, for libraries that do not fit beside ours.

`uv tool run` makes the environment once and keeps it in uv's cache (a start takes about 1 s longer than the
import; what a program leaves running keeps its files). It sees neither the folder it is called from nor
PYTHONPATH.
"""

from __future__ import annotations

import sys

NO_UV = "there is no uv on PATH: install it, or call wf by `uv run wf`"
"""For whoever finds no program of that name."""


def isolated_python(requirement: str, *arguments: str) -> list[str]:
    """The command line.

    Args:
        requirement: As pip takes it, such as "modal>=1.6,<2"; the only one.
        arguments: Of Python. `-I`, set here, keeps PYTHONPATH and the user's own packages from taking the
            requirement's place.
    """
    options = ["--isolated", "--quiet", "--python", sys.executable, "--from", requirement]
    return ["uv", "tool", "run", *options, "python", "-u", "-I", *arguments]
