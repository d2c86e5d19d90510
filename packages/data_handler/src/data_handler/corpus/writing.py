"""Documents written to .jsonl and .jsonl.gz as their records stood; the same bytes for the same documents."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from data_handler.corpus.domains import JSON_LINES, Document
from data_handler.errors import DataRequestError

_GZIP_LEVEL = 6


def check_suffix(path: Path) -> None:
    """Raises: DataRequestError for a name that is not of JSON lines."""
    if not path.name.endswith(JSON_LINES):
        raise DataRequestError(f"{path}: give a name that ends with {' or '.join(JSON_LINES)}")


@contextmanager
def json_lines(path: Path, *, is_packed: bool) -> Iterator[IO[bytes]]:
    """A new file to write lines to; packed without a time or a name in it."""
    with path.open("wb") as file:
        if not is_packed:
            yield file
            return
        with gzip.GzipFile("", "wb", _GZIP_LEVEL, fileobj=file, mtime=0) as packed:
            yield cast("IO[bytes]", packed)


def line_of(document: Document, text_column: str) -> bytes:
    """The record as it stood in its file; of one that had no line of JSON its text alone."""
    if document.record is not None:
        return document.record + b"\n"
    return json.dumps({text_column: document.text}, ensure_ascii=False).encode() + b"\n"


def write_rows(path: Path, rows: Iterable[object]) -> None:
    """One JSON value a line, in ASCII, since names of files may be no text. Raises: ValueError for NaN."""
    with path.open("w") as file:
        for row in rows:
            file.write(json.dumps(row, allow_nan=False) + "\n")
