"""Where the commands of `wf data` write: nothing that is there is replaced without --force, and with it
nothing that they did not write.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from glob import escape
from pathlib import Path

from wf_formats.errors import RequestError
from wf_formats.json_file import read_value
from wf_formats.targets import FolderKind, check_file, check_folder, check_way


def folder_kind(what: str, report: str) -> FolderKind:
    """Folders whose report names the files that were written, below `files`."""
    return FolderKind(what, _files_named_in(report))


def _files_named_in(report: str) -> Callable[[Path], Sequence[str]]:
    def files(folder: Path) -> Sequence[str]:
        try:
            names = read_value(folder / report, ValueError)["files"]
        except (ValueError, TypeError, KeyError):
            return ()
        return [escape(name) for name in names if isinstance(name, str)] if isinstance(names, list) else ()

    return files


def check_new_folder(folder: Path, kind: FolderKind, force: bool) -> None:
    """Raises: RequestError where something is in the way."""
    check_way(folder)
    if not force and os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise RequestError(f"{folder} exists: choose another folder, or replace it with --force")
    check_folder(folder, kind)


def check_new_file(file: Path, force: bool) -> None:
    """Raises: RequestError where something is in the way."""
    check_way(file)
    check_file(file)
    if file.exists() and not force:
        raise RequestError(f"{file} exists: choose another name, or replace it with --force")
