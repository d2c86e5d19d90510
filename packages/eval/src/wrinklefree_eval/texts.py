"""Documents of text files: .txt (one document), .jsonl and .jsonl.gz (one a line, field `text`)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

from wrinklefree_eval.errors import EvalError

SUFFIXES = (".txt", ".jsonl", ".jsonl.gz")


def read_documents(path: Path, column: str = "text") -> Iterator[str]:
    """Documents of a file in order; empty ones are left out.

    Raises:
        EvalError: Missing, unknown or damaged file; a record without text. Names file and line.
    """
    if not path.is_file():
        raise EvalError(f"there is no text file {path}")
    if path.suffix == ".txt":
        yield from filter(None, [_decoded(path)])
    elif path.name.endswith(".jsonl"):
        yield from _records(path, path.read_bytes(), column)
    elif path.name.endswith(".jsonl.gz"):
        yield from _records(path, _unpacked(path), column)
    else:
        raise EvalError(f"{path} is of no known kind (known: {', '.join(SUFFIXES)})")


def _decoded(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise EvalError(f"{path} is not UTF-8: {error}") from error


def _unpacked(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            return file.read()
    except (gzip.BadGzipFile, EOFError) as error:
        raise EvalError(f"{path} is a damaged gzip file: {error}") from error


def _records(path: Path, data: bytes, column: str) -> Iterator[str]:
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise EvalError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(record, dict) or not isinstance(record.get(column), str):
            fields = ", ".join(record) if isinstance(record, dict) else type(record).__name__
            raise EvalError(f"{path}:{number}: no text in field {column!r} (it has: {fields})")
        if record[column]:
            yield record[column]
