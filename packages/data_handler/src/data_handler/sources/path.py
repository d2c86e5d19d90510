"""Local files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from data_handler.config import SourceConfig
from data_handler.readers import open_reader
from data_handler.records import Reader, file_errors
from data_handler.sources.base import Source
from data_handler.sources.files import expand

_SAMPLE_BYTES = 64 * 1024


class PathSource(Source):
    """Local files, known by their names, sizes and a sample of each, so they may be moved together."""

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self.files = expand(config)

    @property
    def num_parts(self) -> int:
        return len(self.files)

    def open(self, part: int, mark: Any) -> Reader:
        return open_reader(self.files[part], self.config, mark)

    def names(self) -> Any:
        return [self.config.text_column, self.config.text_unit, *(file.name for file in self.files)]

    def content(self) -> Any:
        return [_sampled(file) for file in self.files]


def _sampled(path: Path) -> tuple[int, str]:
    """Size in bytes, and a hash of the first and last 64 KiB.

    The end of a parquet file holds its index, that of a gzip file the check sum over all of it.
    """
    with file_errors(path), path.open("rb") as file:
        size = path.stat().st_size
        head = file.read(_SAMPLE_BYTES)
        file.seek(max(0, size - _SAMPLE_BYTES))
        return size, hashlib.sha256(head + file.read(_SAMPLE_BYTES)).hexdigest()[:12]
