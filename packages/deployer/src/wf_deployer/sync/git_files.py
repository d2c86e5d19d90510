"""The files of a checkout, as git lists them: tracked ones and new ones that are not ignored.

A submodule, and a repository inside the checkout, is listed by its own git with its own rules. What git lists
may be gone from the disk: that is for who reads the files.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from wf_deployer.sync.remote_program import raw, text
from wf_formats.errors import RequestError
from wf_formats.printable import printable

_LIST = ("ls-files", "--cached", "--others", "--exclude-standard", "-z")
_FOREIGN = frozenset(
    f"GIT_{name}" for name in ("DIR", "WORK_TREE", "INDEX_FILE", "PREFIX", "OBJECT_DIRECTORY", "COMMON_DIR")
)
"""A hook of git sets them for another command than ours."""


def listed_files(root: Path) -> tuple[list[str], list[str]]:
    """Paths below `root` in the order of their bytes (see `remote_program.text`), and lines for the user:
    what git warns of, and submodules that were not checked out.

    Raises:
        RequestError: git is missing, `root` is in no work tree, or git refuses; with git's reason.
    """
    files: list[str] = []
    notes: list[str] = []
    _collect(os.fsencode(root), b"", files, notes)
    return sorted(set(files), key=raw), notes


def _collect(root: bytes, below: bytes, files: list[str], notes: list[str]) -> None:
    names = _listed(os.path.join(root, below), notes)
    for name in names:
        path = os.path.join(below, name.rstrip(b"/"))
        place = os.path.join(root, path)
        if os.path.islink(place) or not os.path.isdir(place):
            files.append(text(path))
        elif os.path.lexists(os.path.join(place, b".git")):
            _collect(root, path, files, notes)
        elif not any(other.startswith(name + b"/") for other in names):  # else a file that became a folder
            notes.append(f"left out, not checked out: submodule {printable(text(path))}")


def _listed(folder: bytes, notes: list[str]) -> list[bytes]:
    environment = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    try:
        done = subprocess.run(
            [b"git", b"-C", folder, *_LIST],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=environment | {"LC_ALL": "C"},
            check=False,
        )
    except FileNotFoundError as error:
        raise RequestError("git is not installed: install your system's git package") from error
    if done.returncode != 0:
        raise RequestError(_refusal(text(folder).rstrip("/"), text(done.stderr)))
    notes += [f"git: {printable(text(line))}" for line in done.stderr.splitlines()]
    return list(filter(None, done.stdout.split(b"\0")))


def _refusal(folder: str, reason: str) -> str:
    if "not a git repository (or any" in reason:
        fix = f"run `git init {printable(folder)}`, and name in .gitignore what shall stay here"
        return f"{printable(folder)} is not in a git repository, which says what to send; {fix}"
    first = next(iter(reason.strip().splitlines()), "no reason given")
    return f"git lists no files in {printable(folder)}: {printable(first)}; mend what `git status` says there"
