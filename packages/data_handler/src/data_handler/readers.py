"""Readers of one file each: records in order, from any position, streaming.

A reader yields raw records and decodes one only when asked (`text`), so a shard skips the records
of the other shards without parsing them. `mark()` is the JSON-serialisable position after the
record yielded last. The cost of going back to a mark:

| format   | mark                       | cost                                                      |
| -------- | -------------------------- | --------------------------------------------------------- |
| jsonl    | byte offset, line          | one seek                                                  |
| txt      | byte offset, line          | one seek                                                  |
| parquet  | row                        | rows before it in its row group (other groups are skipped)|
| jsonl.gz | unpacked byte offset, line | unpacking up to there: gzip has no index (about 300 MB/s) |
"""

from __future__ import annotations

import gzip
import io
import json
import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_handler.config import SourceConfig, TextUnit
from data_handler.errors import DataError

MAX_FILE_DOCUMENT_BYTES = 256 * 1024**2
_BUFFER_BYTES = 1024**2
_ROWS_PER_READ = 256


class Reader(ABC):
    """Iterates over the raw records after a mark (None: from the start)."""

    @abstractmethod
    def mark(self) -> Any:
        """JSON-serialisable position after the record yielded last."""

    @abstractmethod
    def __iter__(self) -> Iterator[Any]: ...

    @abstractmethod
    def text(self, record: Any) -> str:
        """The text of the record yielded last. Raises: DataError naming file and record."""


class LineReader(Reader):
    """Lines of a file, blank ones left out; base of the jsonl and txt readers."""

    def __init__(self, path: Path, mark: list[int] | None) -> None:
        self._path = path
        self._offset_bytes, self._line = mark or (0, 0)

    def mark(self) -> list[int]:
        return [self._offset_bytes, self._line]

    def _open(self) -> IO[bytes]:
        if self._path.suffix == ".gz":
            return io.BufferedReader(gzip.GzipFile(self._path), _BUFFER_BYTES)
        return self._path.open("rb", _BUFFER_BYTES)

    def _lines(self) -> Iterator[bytes]:
        try:
            with self._open() as file:
                self._seek(file)
                for line in file:
                    self._offset_bytes += len(line)
                    self._line += 1
                    yield line
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(
                f"{self._path}: damaged gzip data after line {self._line} ({error}); "
                "the file is cut off or broken: fetch or write it again"
            ) from error

    def _seek(self, file: IO[bytes]) -> None:
        """To the mark; in a file that has changed since, to the beginning of the next line."""
        if self._offset_bytes:
            file.seek(self._offset_bytes - 1)
            self._offset_bytes += len(file.readline()) - 1

    def __iter__(self) -> Iterator[bytes]:
        return (line for line in self._lines() if not line.isspace())

    def text(self, record: bytes) -> str:
        return self._decoded(record).rstrip("\r\n")

    def _decoded(self, record: bytes) -> str:
        try:
            return record.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self._path}, line {self._line}: not UTF-8 ({error.reason}); "
                "convert the file to UTF-8 or remove the record"
            ) from error


class JsonLinesReader(LineReader):
    """One JSON object a line, the text in `column`."""

    def __init__(self, path: Path, mark: list[int] | None, column: str) -> None:
        super().__init__(path, mark)
        self._column = column

    def text(self, record: bytes) -> str:
        where = f"{self._path}, line {self._line}"
        try:
            value = json.loads(super().text(record))
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: damaged record, {error}; mend or remove the line") from error
        return field_text(value, self._column, where)


class ParagraphReader(LineReader):
    """Paragraphs: runs of lines between blank lines. A mark is never inside of one."""

    def __iter__(self) -> Iterator[bytes]:
        lines: list[bytes] = []
        for line in self._lines():
            if not line.isspace():
                lines.append(line)
            elif lines:
                yield b"".join(lines)
                lines = []
        if lines:
            yield b"".join(lines)


class WholeFileReader(LineReader):
    """The whole file as one document."""

    max_bytes: float = MAX_FILE_DOCUMENT_BYTES

    def __iter__(self) -> Iterator[bytes]:
        size_bytes = self._path.stat().st_size
        if size_bytes > self.max_bytes:
            raise DataError(
                f"{self._path}: {size_bytes:,} bytes as one document would not be streamed; "
                "set text_unit to paragraph or line"
            )
        data = b"".join(self._lines())
        if data.strip():
            yield data


class VerbatimReader(WholeFileReader):
    """The whole file, however large, with the line ends at its end, which a perplexity counts."""

    max_bytes = math.inf

    def text(self, record: bytes) -> str:
        return self._decoded(record).replace("\r\n", "\n").replace("\r", "\n")


class ParquetReader(Reader):
    """Rows of one string column, a few at a time."""

    def __init__(self, path: Path, mark: list[int] | None, column: str) -> None:
        self._path = path
        self._column = column
        self._row = mark[0] if mark else 0

    def mark(self) -> list[int]:
        return [self._row]

    def __iter__(self) -> Iterator[Any]:
        try:
            with pq.ParquetFile(self._path, buffer_size=_BUFFER_BYTES) as file:
                self._check_column(file.schema_arrow)
                yield from self._rows(file)
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{self._path}: damaged parquet data after record {self._row} ({error}); "
                "the file is cut off or broken: fetch or write it again"
            ) from error

    def _check_column(self, schema: pa.Schema) -> None:
        if self._column not in schema.names:
            raise DataError(
                f"{self._path}: no column {self._column!r}; set text_column to one of {schema.names}"
            )
        kind = schema.field(self._column).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise DataError(
                f"{self._path}: column {self._column!r} holds {kind}, not text; "
                f"set text_column to another of {schema.names}"
            )

    def _rows(self, file: pq.ParquetFile) -> Iterator[Any]:
        group_start = 0
        for group in range(file.num_row_groups):
            group_end = group_start + file.metadata.row_group(group).num_rows
            row = group_start
            if self._row < group_end:
                for batch in file.iter_batches(
                    _ROWS_PER_READ, row_groups=[group], columns=[self._column], use_threads=False
                ):
                    for value in batch.column(0).slice(max(0, self._row - row)):
                        self._row += 1
                        yield value
                    row += batch.num_rows
            group_start = group_end

    def text(self, record: Any) -> str:
        value = record.as_py()
        return field_text({self._column: value}, self._column, f"{self._path}, record {self._row}")


def field_text(record: Any, column: str, where: str) -> str:
    """record[column] if that is a string. Raises: DataError that starts with `where`."""
    if not isinstance(record, dict):
        raise DataError(
            f"{where}: a JSON object with the field {column!r} is wanted, here is {type(record).__name__}"
        )
    if column not in record:
        raise DataError(f"{where}: no field {column!r}; set text_column to one of {sorted(record)}")
    text = record[column]
    if not isinstance(text, str):
        raise DataError(
            f"{where}: field {column!r} holds {type(text).__name__}, not text; "
            "mend or remove the record, or set another text_column"
        )
    return text


SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet", ".txt")
_TEXT_READERS = {
    TextUnit.file: WholeFileReader,
    TextUnit.paragraph: ParagraphReader,
    TextUnit.line: LineReader,
}


def open_reader(path: Path, config: SourceConfig, mark: Any) -> Reader:
    """The reader for the file's suffix, one of `SUFFIXES`, standing after `mark`."""
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return JsonLinesReader(path, mark, config.text_column)
    if path.suffix == ".parquet":
        return ParquetReader(path, mark, config.text_column)
    return _TEXT_READERS[config.text_unit](path, mark)


DOCUMENT_SUFFIXES = (".txt", ".jsonl", ".jsonl.gz")


def read_documents(path: Path, column: str = "text") -> Iterator[str]:
    """Documents of an evaluation text, in order: a .txt is one, word for word; .jsonl and .jsonl.gz
    have one a line in the field `column`. Empty ones are left out.

    Raises:
        DataError: a missing, unknown or damaged file, or a record without text; names file and line.
    """
    if not path.is_file():
        raise DataError(f"there is no text file {path}")
    if not path.name.endswith(DOCUMENT_SUFFIXES):
        raise DataError(f"{path} is of no known kind (known: {', '.join(DOCUMENT_SUFFIXES)})")
    is_plain = path.suffix == ".txt"
    reader = VerbatimReader(path, None) if is_plain else JsonLinesReader(path, None, column)
    return filter(None, map(reader.text, reader))
