"""Where an output may go: nothing is replaced that is not known to be ours.

    a file     a new name, or a regular file (that was named); no folder, link or device
    a folder   a new name, an empty folder, or one that holds nothing but what we write (`FolderKind`)

`wf_formats.atomic` asks again just before it replaces something, whoever calls it; applications ask
first, so that a wrong target is refused before anything is computed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path
from typing import Any

from wf_formats.errors import RequestError
from wf_formats.file_names import CARD_FILE, META_FILE, MODEL_FILES
from wf_formats.json_file import read_value
from wf_formats.model_card import is_own_card
from wf_formats.printable import printable
from wf_formats.secrets import redacted
from wf_formats.urls import meant_url

_KINDS = (
    (stat.S_ISLNK, "a link; give the path that it leads to"),
    (stat.S_ISDIR, "a folder; give the name of a file"),
    (stat.S_ISCHR, "a device; give the name of a file"),
    (stat.S_ISBLK, "a device; give the name of a file"),
    (stat.S_ISFIFO, "a pipe; give the name of a file"),
    (stat.S_ISSOCK, "a socket; give the name of a file"),
)


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder that we write, and how one is recognised."""

    what: str
    """For messages: "a checkpoint"."""
    known_files: Callable[[Path], Sequence[str]]
    """Patterns of the paths inside that may be removed, in which `*` stays within a folder; empty for a
    folder of another kind."""

    def check(self, folder: Path) -> None:
        """Raises: RequestError for a folder with something inside that we did not write; names it."""
        entries = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
        if not entries:
            return
        known = self.known_files(folder)
        for entry in entries:
            name = str(entry.relative_to(folder))
            if entry.is_symlink() or not any(_is_match(name, pattern) for pattern in known):
                raise RequestError(
                    f"{folder} is not replaced: {name} in it is not of {self.what} that WrinkleFree wrote; "
                    "choose another path, or move it away"
                )


def check_file(target: Path) -> None:
    """Raises: RequestError where there is something else than a regular file."""
    mode = _mode(target)
    if mode is None or stat.S_ISREG(mode):
        return
    what = next(text for is_kind, text in _KINDS if is_kind(mode))
    raise RequestError(f"{target} is not written: it is {what}")


def check_folder(target: Path, kind: FolderKind) -> None:
    """Raises: RequestError where there is no folder, or one that holds something that is not ours."""
    mode = _mode(target)
    if mode is None:
        return
    if not stat.S_ISDIR(mode):
        what = "a link" if stat.S_ISLNK(mode) else "a file"
        raise RequestError(f"{target} is not replaced: it is {what}; give the name of a folder")
    kind.check(target)


def check_report(target: Path, keys: Sequence[str]) -> None:
    """Raises: RequestError where something else than an earlier report (JSON with these keys) is there."""
    check_way(target)
    check_file(target)
    if target.exists() and not set(keys) <= _json_keys(target):
        raise RequestError(f"{target} is not replaced: it is no earlier report; choose another path")


def check_apart(target: Path, source: Path) -> None:
    """Raises: RequestError where the target is the source, in it or around it."""
    written, read = target.resolve(), source.resolve()
    if written == read or written.is_relative_to(read):
        raise RequestError(f"{target} is in {source}, which is only read; choose a path outside of it")
    if read.is_relative_to(written):
        raise RequestError(f"{target} has {source} in it, which is to be read; choose another path")


def _is_match(name: str, pattern: str) -> bool:
    return name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)


def check_way(target: Path) -> None:
    """What every target on this machine has to be, before anything is computed.

    Raises: RequestError for a URL, for `/`, and where something else than a folder is on the way to it.
    """
    if (url := meant_url(str(target))) is not None:
        raise RequestError(
            f"{printable(redacted(url))} is a URL, and this is written on this machine: give a path, and "
            "upload it with wf store put"
        )
    path = target.absolute()
    if not Path(os.path.abspath(path)).name:
        raise RequestError(f"{target} is the top of the file system; give a path with a name of its own")
    there = next(parent for parent in path.parents if os.path.lexists(parent))
    if not there.is_dir():
        raise RequestError(f"{there} is no folder, so {target} cannot be made; check the path")


def _mode(target: Path) -> int | None:
    try:
        return target.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):  # the latter is told when the parent is made
        return None


def _json_keys(path: Path) -> set[str]:
    try:
        value = read_value(path, ValueError)
    except ValueError:
        return set()
    return set(value) if isinstance(value, dict) else set()


def _record(folder: Path) -> dict[str, Any]:
    """wrinklefree.json; empty where it is missing or no record."""
    try:
        record = read_value(folder / META_FILE, ValueError)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def checkpoint_kind(*further_files: str) -> FolderKind:
    """Model folders with master or dense weights; `further_files` beside them are ours too."""

    def known_files(folder: Path) -> Sequence[str]:
        return (*MODEL_FILES, *further_files) if "conversion" in _record(folder) else ()

    return FolderKind("a checkpoint", known_files)


def _files_of_export(folder: Path) -> Sequence[str]:
    export = _record(folder).get("export")
    if not isinstance(export, dict):
        return ()
    if "files" not in export:  # of an older version, which recorded none
        return MODEL_FILES
    files = export["files"]
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        return ()
    card = [CARD_FILE] if is_own_card(folder / CARD_FILE) else []
    return [META_FILE, *card, *map(escape, files)]


EXPORT = FolderKind("an export", _files_of_export)
