"""Text that is there without a download: this Python's, and conversations in this package.

`python_docs` is `pydoc_data.topics` (about 80 topics, 0.7 MB), `python_stdlib` the .py files of the
standard library without tests (about 750 files, 11 MB). `chat` are conversations in ChatML that
SmolLM2-135M-Instruct wrote with itself (training's write_chat.py). One part is one document. A hash of
the document's name puts one in ten into the split 'validation', so train and validation never meet.
Python's text differs between its versions; the source's identity tells.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.resources
import json
import sysconfig
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data_handler.config import SourceConfig
from data_handler.errors import DataError, DataRequestError
from data_handler.records import Reader
from data_handler.sources.base import Source

SPLITS = ("train", "validation", "all")
_VALIDATION_ONE_IN = 10
_LEFT_OUT_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


def _topics() -> dict[str, str]:
    from pydoc_data.topics import topics

    return topics


@functools.cache
def _conversations() -> dict[str, str]:
    data = importlib.resources.files("data_handler").joinpath("chat.jsonl.gz").read_bytes()
    lines = gzip.decompress(data).splitlines()
    return {f"{number:04}": json.loads(line)["text"] for number, line in enumerate(lines)}


def _in_memory(text: str) -> dict[str, str] | None:
    """Documents by name; None for the text that is files."""
    if text == "python_docs":
        return _topics()
    return _conversations() if text == "chat" else None


def _stdlib_folder() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def document_names(text: str) -> list[tuple[str, int]]:
    """Sorted (name, size) of the documents of a packaged text; the size tells versions apart."""
    if (documents := _in_memory(text)) is not None:
        return sorted((name, len(document)) for name, document in documents.items())
    folder = _stdlib_folder()
    files = (file for file in folder.rglob("*.py") if not _LEFT_OUT_FOLDERS & set(file.parts))
    return sorted((file.relative_to(folder).as_posix(), file.stat().st_size) for file in files)


def read_document(text: str, name: str) -> str:
    """Raises: DataError if a standard library file cannot be read."""
    if (documents := _in_memory(text)) is not None:
        return documents[name]
    path = _stdlib_folder() / name
    try:
        with tokenize.open(path) as file:
            return file.read()
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); reinstall this Python") from error


def in_split(name: str, split: str) -> bool:
    validation = hashlib.sha256(name.encode()).digest()[0] % _VALIDATION_ONE_IN == 0
    return split == "all" or validation == (split == "validation")


class DocumentReader(Reader):
    """One document; the mark is 0 before it and 1 after it."""

    def __init__(self, load: Callable[[], str], where: str, mark: int | None) -> None:
        self._load = load
        self._where = where
        self._mark = mark or 0

    def mark(self) -> int:
        return self._mark

    def __iter__(self) -> Iterator[None]:
        if self._mark == 0:
            self._mark = 1
            yield None

    def text(self, record: None) -> str:
        return self._load()

    def place(self, record: None) -> str:
        return self._where


class PackagedSource(Source):
    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        if config.split not in SPLITS:
            raise DataRequestError(
                f"source {config.name!r}: split is {config.split!r}; a packaged text has {SPLITS}"
            )
        self._documents = [
            (text, name, size)
            for text in config.packaged_texts()
            for name, size in document_names(text)
            if in_split(name, config.split)
        ]

    @property
    def num_parts(self) -> int:
        return len(self._documents)

    def open(self, part: int, mark: Any) -> Reader:
        text, name, _ = self._documents[part]
        return DocumentReader(lambda: read_document(text, name), f"{text}, {name}", mark)

    def names(self) -> Any:
        return [(text, name) for text, name, _ in self._documents]

    def content(self) -> Any:
        return [size for _, _, size in self._documents]
