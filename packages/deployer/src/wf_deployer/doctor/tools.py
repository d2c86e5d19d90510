"""Programs on the PATH and what they say of themselves."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from wf_deployer.doctor.children import output_of
from wf_deployer.errors import CommandError


def find_tool(name: str) -> str | None:
    """Its whole path; None where there is none."""
    return shutil.which(name)


def tool_version(name: str, pattern: str = r"\d+(?:\.\d+)+", option: str = "--version") -> str | None:
    """The first thing like a version that `name --version` prints; None where it is missing or silent."""
    path = find_tool(name)
    if path is None:
        return None
    try:
        done = output_of([path, option], cwd=Path.cwd())
    except CommandError:
        return None
    found = re.search(pattern, done.stdout + done.stderr)
    return found[found.lastindex or 0] if found else None


def nvcc_version() -> str | None:
    """CUDA's release that nvcc compiles for, such as "13.0"."""
    return tool_version("nvcc", r"release (\d+\.\d+)")
