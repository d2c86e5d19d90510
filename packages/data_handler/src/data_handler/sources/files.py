"""The files of a location: names and patterns, each file once, in an order that is always the same.

`**` follows links to folders, but enters each folder once however it is reached, so links in a circle
end and a folder that two links lead to is read once.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from data_handler.config import SUFFIXES, SourceConfig
from data_handler.errors import DataRequestError
from data_handler.records import file_errors

_ANY_DEPTH = "**"


def expand(config: SourceConfig) -> list[Path]:
    """Files of a path source in the order given; a pattern's files are sorted; each file once.

    A file with two names (links) counts as one, under the name that comes first.

    Raises:
        DataRequestError: a file is missing, a pattern matches nothing, or a suffix is unknown.
        DataError: a folder cannot be read.
    """
    entries = [config.location] if isinstance(config.location, str) else config.location
    files = [file for entry in entries for file in _expand_one(entry, config.name)]
    for file in files:
        if not file.name.endswith(SUFFIXES):
            raise DataRequestError(
                f"source {config.name!r}: {file} has an unknown suffix; known: {list(SUFFIXES)}"
            )
        if config.record_format is not None and file.suffix == ".txt":
            raise DataRequestError(
                f"source {config.name!r}: {file} holds text, and format is {config.format!r}, which has "
                "records; leave format out, or give .jsonl or .parquet"
            )
    first: dict[str, Path] = {}
    for file in files:
        first.setdefault(os.path.realpath(file), file)
    return list(first.values())


def _expand_one(entry: str, name: str) -> list[Path]:
    path = _path(entry, name)
    with file_errors(path):
        if path.is_file():
            return [path]
        if path.is_dir():
            raise DataRequestError(
                f"source {name!r}: {path} is a folder; say which files, e.g. {path}/*.jsonl.gz"
            )
        if not glob.has_magic(str(path)):
            raise DataRequestError(f"source {name!r}: the file {path} does not exist (in {Path.cwd()})")
        files = [match for match in sorted(set(_matches(path))) if _is_file(match, name)]
    if not files:
        raise DataRequestError(f"source {name!r}: no file matches {path} (in {Path.cwd()})")
    return files


def _path(entry: str, name: str) -> Path:
    try:
        return Path(entry).expanduser()
    except RuntimeError as error:
        raise DataRequestError(f"source {name!r}: {entry!r} names no user's folder ({error})") from error


def _is_file(path: Path, name: str) -> bool:
    """Raises: DataRequestError for a link that leads nowhere, which would be data left out in silence."""
    if not path.exists():
        raise DataRequestError(f"source {name!r}: {path} is a link that leads nowhere; mend or remove it")
    return path.is_file()


def _matches(pattern: Path) -> Iterator[Path]:
    """What a pattern matches, as `glob` says, in folders entered once."""
    parts = pattern.parts
    if _ANY_DEPTH not in parts:
        yield from map(Path, glob.glob(str(pattern)))
        return
    place = parts.index(_ANY_DEPTH)
    rest = parts[place + 1 :] or ("*",)
    entered: set[str] = set()
    for top in filter(os.path.isdir, sorted(glob.glob(str(Path(*parts[:place]))))):
        for folder in _folders(top, entered):
            yield from _matches(Path(glob.escape(folder), *rest))


def _folders(top: str, entered: set[str]) -> Iterator[str]:
    """`top` and the folders below it that are not hidden, nearest first by name.

    Raises: OSError for a folder that cannot be listed.
    """
    waiting = [top]
    for folder in waiting:
        real = os.path.realpath(folder)
        if real in entered:
            continue
        entered.add(real)
        yield folder
        with os.scandir(folder) as entries:
            names = sorted(entry.path for entry in entries if entry.name[0] != ".")
        waiting += filter(os.path.isdir, names)
