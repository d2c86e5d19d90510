"""Local files."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

from data_handler.config import SourceConfig
from data_handler.errors import DataError
from data_handler.readers import SUFFIXES, Reader, open_reader
from data_handler.sources.base import Source


class PathSource(Source):
    """Local files; the identity is their names and sizes, so they may be moved together."""

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self.files = expand(config)

    @property
    def num_parts(self) -> int:
        return len(self.files)

    def open(self, part: int, mark: Any) -> Reader:
        return open_reader(self.files[part], self.config, mark)

    def identity(self) -> Any:
        settings = [self.config.text_column, self.config.text_unit]
        return [settings, *([file.name, file.stat().st_size] for file in self.files)]


def expand(config: SourceConfig) -> list[Path]:
    """Files of a path source in the order given; a glob's files are sorted; each file once.

    Raises:
        DataError: a file is missing, a pattern matches nothing, or a suffix is unknown.
    """
    entries = [config.location] if isinstance(config.location, str) else config.location
    files = [file for entry in entries for file in _expand_one(entry, config.name)]
    for file in files:
        if not file.name.endswith(SUFFIXES):
            raise DataError(f"source {config.name!r}: {file} has an unknown suffix; known: {list(SUFFIXES)}")
    return list(dict.fromkeys(files))


def _expand_one(entry: str, name: str) -> list[Path]:
    path = Path(entry).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        raise DataError(f"source {name!r}: {path} is a folder; say which files, e.g. {path}/*.jsonl.gz")
    if glob.has_magic(str(path)):
        matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        if files := [match for match in matches if match.is_file()]:
            return files
        raise DataError(f"source {name!r}: no file matches {path} (in {Path.cwd()})")
    raise DataError(f"source {name!r}: the file {path} does not exist (in {Path.cwd()})")
