"""Local files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_handler.config import SourceConfig
from data_handler.readers import open_reader
from data_handler.records import Reader, file_errors
from data_handler.sources.base import Source
from data_handler.sources.files import expand
from wf_formats.content import file_digest


class PathSource(Source):
    """Local files, known by their names and content (wf_formats.content), so they may be moved together."""

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self.files = expand(config)

    @property
    def num_parts(self) -> int:
        return len(self.files)

    def open(self, part: int, mark: Any) -> Reader:
        return open_reader(self.files[part], self.config, mark)

    def names(self) -> Any:
        return [*self.config.contents, self.config.text_unit, *(file.name for file in self.files)]

    def content(self) -> Any:
        return [_digest(file) for file in self.files]


def _digest(path: Path) -> str:
    with file_errors(path):
        return file_digest(path)
