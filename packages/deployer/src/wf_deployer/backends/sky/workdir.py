"""The copy of the checkout that machines get: what `gcd` would send, without results and secrets."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from wf_deployer.sync.git_files import listed_files
from wf_deployer.sync.remote_program import raw
from wf_deployer.sync.snapshot import sorted_out
from wf_formats.errors import RequestError

_AS_IT_IS = ".skyignore"
"""SkyPilot leaves out what .gitignore names, even if git has it, unless this file is there."""


def files_to_send(root: Path) -> list[str]:
    """Paths of the checkout that machines get. Raises: RequestError where `root` is in no git repository."""
    files, _ = listed_files(root)
    if not files:
        raise RequestError(f"git lists no files in {root}: there is nothing to send; add some")
    return sorted_out(root, files)[0]


def copy_checkout(root: Path, target: Path) -> None:
    """Makes `target` a new folder with the checkout's files: contents, executable bits and links as they are.

    Raises:
        RequestError: `root` is in no git repository.
        OSError: a file cannot be read, or the disk is full.
    """
    files = files_to_send(root)
    target.mkdir()
    source, copy = os.fsencode(root), os.fsencode(target)
    for path in files:
        place = os.path.join(source, raw(path))
        if not _is_file_or_link(place):
            continue
        there = os.path.join(copy, raw(path))
        os.makedirs(os.path.dirname(there), exist_ok=True)
        shutil.copy2(place, there, follow_symlinks=False)
    (target / _AS_IT_IS).touch()


def _is_file_or_link(place: bytes) -> bool:
    """What git lists may be gone from the disk, and pipes and folders are not for copying."""
    return os.path.islink(place) or os.path.isfile(place)
