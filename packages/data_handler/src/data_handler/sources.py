"""A source as an ordered list of parts (files, packaged texts, a hub data set) to read from."""

from __future__ import annotations

import glob
import hashlib
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from data_handler.config import SourceConfig, SourceKind
from data_handler.errors import DataError
from data_handler.readers import SUFFIXES, Reader, open_reader


class Source(ABC):
    """Parts in a fixed order.

    `presharded`: the parts hold the documents of this shard only.
    """

    presharded = False

    def __init__(self, config: SourceConfig) -> None:
        self.config = config

    @property
    @abstractmethod
    def num_parts(self) -> int: ...

    @abstractmethod
    def open(self, part: int, mark: Any) -> Reader: ...

    @abstractmethod
    def identity(self) -> Any:
        """What tells this data from other data (JSON); cheap, so names and sizes."""

    def digest(self) -> str:
        """Short hash of kind and identity: a state does not fit other data."""
        text = json.dumps([self.config.kind, self.identity()])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


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


def open_source(config: SourceConfig, shard: int = 0, num_shards: int = 1) -> Source:
    """The source of a config; shard and num_shards matter to hub sources only (see hub.py)."""
    if config.kind is SourceKind.path:
        return PathSource(config)
    if config.kind is SourceKind.packaged:
        from data_handler.packaged import PackagedSource

        return PackagedSource(config)
    from data_handler.hub import HubSource

    return HubSource(config, shard, num_shards)
