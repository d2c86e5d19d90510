"""Files of documents under a name each, and their documents with their places.

What is given is `NAME=FILE` or `FILE` (a pattern too). A file without a name is called by its own, or, where
several are called alike, by what tells their paths apart: `pretrain/books/train.jsonl.gz` and
`pretrain/c4/train.jsonl.gz` are `books` and `c4`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data_handler.config import SUFFIXES, TEXT_COLUMN, SourceConfig, SourceKind, TextUnit
from data_handler.errors import DataError, DataRequestError
from data_handler.readers import open_reader
from data_handler.records import Rules
from data_handler.sources.files import expand

JSON_LINES = (".jsonl", ".jsonl.gz")
"""Suffixes of what is written."""
_RULES = Rules(column_advice="name the field with --text-column, one of")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Reading:
    """How files become documents.

    Attributes:
        text_column: field with the text (jsonl, parquet).
        text_unit: what a document of a .txt file is.
    """

    text_column: str = TEXT_COLUMN
    text_unit: TextUnit = TextUnit.file


@dataclass(frozen=True)
class Domain:
    """A name and the files behind it."""

    name: str
    files: tuple[Path, ...]


class Document(NamedTuple):
    """One document, and where it is.

    Attributes:
        line: of its record in the file, from 1; of a parquet file the row, of a .txt its last line.
        record: its line as it stands in the file, without the end; None where it has no line of JSON.
    """

    domain: str
    file: Path
    line: int
    text: str
    record: bytes | None

    @property
    def place(self) -> str:
        """`books.jsonl, line 3`."""
        return f"{self.file}, line {self.line}"


def parse_domains(arguments: Sequence[str]) -> list[Domain]:
    """The domains of `NAME=FILE` and `FILE` arguments, in their order; files of one name are one domain.

    Raises:
        DataRequestError: no file, a missing one, one of unknown kind, a name that cannot be one, a file that
            is given twice.
    """
    if not arguments:
        raise DataRequestError("no file is given: name at least one, such as books=text/books.jsonl.gz")
    given = [_split(argument) for argument in arguments]
    found = [(name, path) for name, pattern in given for path in _files(name, pattern)]
    _refuse_repeated([path for _, path in found])
    names = _own_names([path for name, path in found if name is None])
    files: dict[str, list[Path]] = {}
    for name, path in found:
        files.setdefault(names[path] if name is None else name, []).append(path)
    _refuse_mixed({name for name, _ in found if name is not None}, set(names.values()))
    return [Domain(name, tuple(paths)) for name, paths in files.items()]


def parse_one(argument: str, what: str) -> Domain:
    """The only domain of an argument. Raises: DataRequestError also where a pattern means several."""
    name, pattern = _split(argument)
    found = parse_domains([argument if name is not None else f"{what}={pattern}"])
    return found[0]


def _split(argument: str) -> tuple[str | None, str]:
    """Name and pattern; what is a file as it stands has no name."""
    name, sign, pattern = argument.partition("=")
    if not sign or os.path.lexists(argument):
        return None, argument
    if not _NAME.fullmatch(name):
        raise DataRequestError(
            f"{argument!r}: {name!r} is no name; give NAME=FILE, NAME of letters, digits, '_', '-', '.'"
        )
    if not pattern:
        raise DataRequestError(f"{argument!r} names no file; give {name}=FILE")
    return name, pattern


def _files(name: str | None, pattern: str) -> list[Path]:
    return expand(SourceConfig(SourceKind.path, name or Path(pattern).name or pattern, pattern))


def _refuse_repeated(paths: Sequence[Path]) -> None:
    counts = Counter(os.path.realpath(path) for path in paths)
    if repeated := [path for path in paths if counts[os.path.realpath(path)] > 1]:
        raise DataRequestError(
            f"{repeated[0]} is given {counts[os.path.realpath(repeated[0])]} times; once is enough"
        )


def _refuse_mixed(given: set[str], derived: set[str]) -> None:
    if both := sorted(given & derived):
        raise DataRequestError(
            f"a file without a name would be called {both[0]!r}, as another is: give it one, NAME=FILE"
        )


def _own_names(paths: Sequence[Path]) -> dict[Path, str]:
    """A name for each: its own, else the parts of the path that tell it from the others."""
    parts = {path: [*path.absolute().parts[:-1], _stem(path)] for path in paths}
    own = [each[-1] for each in parts.values()]
    if len(set(own)) < len(own):
        rows = list(parts.values())
        first = _common(rows)
        last = _common([row[::-1] for row in rows])
        parts = {path: row[first : len(row) - last] or row[-1:] for path, row in parts.items()}
        names = {path: _as_name("-".join(row)) for path, row in parts.items()}
    else:
        names = {path: _as_name(row[-1]) for path, row in parts.items()}
    counts = Counter(names.values())
    if alike := [path for path in paths if counts[names[path]] > 1]:
        raise DataRequestError(
            f"{alike[0]} and another file would both be called {names[alike[0]]!r}: give names, NAME=FILE"
        )
    return names


def _stem(path: Path) -> str:
    suffix = next(
        (suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if path.name.endswith(suffix)), ""
    )
    return path.name.removesuffix(suffix) or path.name


def _common(rows: Sequence[Sequence[str]]) -> int:
    """How many of their first parts all rows have in common."""
    count = 0
    for parts in zip(*rows, strict=False):
        if len(set(parts)) > 1:
            break
        count += 1
    return count


def _as_name(text: str) -> str:
    return _NOT_IN_NAMES.sub("_", text).lstrip(".-") or "_"


def documents_of(domain: Domain, reading: Reading) -> Iterator[Document]:
    """The documents of a domain that are not empty, in the order of its files, streamed.

    Raises:
        DataError: a file without any, a damaged one, or a record without text; names file and line.
    """
    for file in domain.files:
        is_empty = True
        for document in _documents(domain.name, file, reading):
            is_empty = False
            yield document
        if is_empty:
            raise DataError(f"{file} is empty: it holds no text; leave it out")


def _documents(name: str, file: Path, reading: Reading) -> Iterator[Document]:
    source = SourceConfig(
        SourceKind.path, name, str(file), text_column=reading.text_column, text_unit=reading.text_unit
    )
    reader = open_reader(file, source, None, _RULES)
    for record in reader:
        if (text := reader.text(record)).strip():
            line = record.rstrip(b"\r\n") if is_json_lines(file) else None
            yield Document(name, file, reader.mark()[-1], text, line)


def is_json_lines(file: Path) -> bool:
    """Whether its records are lines that can be written again as they stand."""
    return file.name.endswith(JSON_LINES)
