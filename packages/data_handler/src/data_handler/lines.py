"""Readers of .jsonl, .jsonl.gz and .txt.

A byte order mark at the start of a file is left out, and line ends may be those of Windows. No more
of a line than a record may have is ever in memory: `readline` asks for one byte more than that, and
the rest of a longer line is passed over in pieces. A gzip file's check sum stands at its end, so
damage in it that still unpacks is noticed there.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from data_handler.describing import kind_of, one_line, shown
from data_handler.errors import DataError
from data_handler.records import Reader, Rules, field_text, file_errors

MAX_FILE_DOCUMENT_BYTES = 256 * 1024**2
_BUFFER_BYTES = 1024**2
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

Mark = list[int | None]


class LineReader(Reader):
    """Lines of a file, blank ones left out; base of the other readers.

    A mark is [offset in bytes, lines before it]. Without an offset (None) the lines are counted from
    the start, which finds the place in a file whose content has changed.
    """

    def __init__(self, path: Path, mark: Mark | None, rules: Rules) -> None:
        self._path = path
        self._offset_bytes: int | None
        self._offset_bytes, lines = mark or (0, 0)
        self._line: int = lines or 0
        self._first_line = 0
        self._record_bytes = 0
        self._rules = rules

    def mark(self) -> Mark:
        return [self._offset_bytes, self._line]

    def _open(self) -> IO[bytes]:
        if self._path.suffix == ".gz":
            return io.BufferedReader(gzip.GzipFile(self._path), _BUFFER_BYTES)
        return self._path.open("rb", _BUFFER_BYTES)

    def _lines(self) -> Iterator[bytes]:
        """Lines after the mark; of one that is too long only its beginning."""
        with file_errors(self._path):
            try:
                with self._open() as file:
                    self._go_to_mark(file)
                    yield from self._lines_of(file)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise DataError(
                    f"{self._path}: damaged gzip data after line {self._line} ({one_line(error)}); "
                    "the file is cut off or broken: fetch or write it again"
                ) from error

    def _go_to_mark(self, file: IO[bytes]) -> None:
        if self._offset_bytes is not None:
            file.seek(self._offset_bytes)
            return
        lines, self._line, self._offset_bytes = self._line, 0, 0
        while self._line < lines and (line := file.readline(self._rules.max_bytes + 1)):
            self._count(file, line)

    def _lines_of(self, file: IO[bytes]) -> Iterator[bytes]:
        limit = self._rules.max_bytes
        while line := file.readline(limit + 1):
            if len(line) > limit and not self._rules.skips:
                self._rules.refuse_size(f"{self._path}, line {self._line + 1}")
            self._count(file, line)
            yield line.removeprefix(codecs.BOM_UTF8) if self._line == 1 else line

    def _count(self, file: IO[bytes], line: bytes) -> None:
        """Counts a line and passes over what `readline` left of it."""
        num_bytes = len(line)
        if num_bytes > self._rules.max_bytes:
            while not line.endswith(b"\n") and (line := file.readline(_BUFFER_BYTES)):
                num_bytes += len(line)
        self._offset_bytes = (self._offset_bytes or 0) + num_bytes
        self._line += 1
        self._record_bytes = num_bytes

    def __iter__(self) -> Iterator[bytes]:
        for line in self._lines():
            if not line.isspace():
                self._first_line = self._line
                yield line

    def text(self, record: bytes) -> str:
        text = self._decoded(record)
        if b"\0" in record:
            self._rules.refuse(
                self._place(record, record.index(b"\0")),
                "a byte of value 0, which no text has (UTF-16 without its mark, or a damaged file?)",
            )
        return text.rstrip("\r\n")

    def place(self, record: bytes) -> str:
        return self._place(record, 0)

    def _decoded(self, record: bytes) -> str:
        if self._record_bytes > self._rules.max_bytes:
            self._rules.refuse_size(self.place(record))
        try:
            return record.decode("utf-8")
        except UnicodeDecodeError as error:
            is_utf16 = record.startswith(_UTF16_MARKS) and self._first_line == 1
            found = "it is UTF-16" if is_utf16 else f"{error.reason}: {shown(record[error.start :][:8])}"
            self._rules.refuse(
                self._place(record, error.start), f"not UTF-8 ({found}), which files have to be in"
            )

    def _place(self, record: bytes, at: int) -> str:
        """`a.txt, line 3` of a byte of the record."""
        return f"{self._path}, line {self._first_line + record.count(10, 0, at)}"


class JsonLinesReader(LineReader):
    """One JSON object a line, the text in `column`."""

    def __init__(self, path: Path, mark: Mark | None, rules: Rules, column: str) -> None:
        super().__init__(path, mark, rules)
        self._column = column

    def value(self, record: bytes) -> Any:
        """What the line says. Raises: BadRecordError."""
        decoded = self._decoded(record).rstrip("\r\n")
        try:
            return json.loads(decoded)
        except (ValueError, RecursionError) as error:  # ValueError: also numbers of thousands of digits
            self._rules.refuse(self.place(record), f"damaged record, {one_line(error)}: {shown(decoded)}")

    def text(self, record: bytes) -> str:
        value = self.value(record)
        text = field_text(value, self._column, self._rules, lambda: self.place(record))
        if not text.isascii() and (b"\\ud" in record or b"\\uD" in record):
            self._check_surrogates(text, record)
        return text

    def fields(self, record: bytes) -> tuple[str, dict[str, Any]]:
        value, where = self.value(record), self.place(record)
        if not isinstance(value, dict):
            self._rules.refuse(where, f"a JSON object is wanted, here is {kind_of(value)}")
        return where, value

    def _check_surrogates(self, text: str, record: bytes) -> None:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            self._rules.refuse(
                self.place(record),
                f"field {self._column!r} holds half a character ({shown(text[error.start])}, "
                "a surrogate without its other half)",
            )


class ParagraphReader(LineReader):
    """Paragraphs: runs of lines between blank lines. A mark is never inside of one."""

    def __iter__(self) -> Iterator[bytes]:
        lines: list[bytes] = []
        num_bytes = 0
        for line in self._lines():
            if not line.isspace():
                num_bytes = self._add(lines, line, num_bytes)
            elif lines:
                yield self._paragraph(lines, num_bytes)
                lines, num_bytes = [], 0
        if lines:
            yield self._paragraph(lines, num_bytes)

    def _add(self, lines: list[bytes], line: bytes, num_bytes: int) -> int:
        """Adds a line while the paragraph may grow; the bytes of the paragraph up to it."""
        if not lines:
            self._start_line = self._line
        num_bytes += self._record_bytes
        if num_bytes <= self._rules.max_bytes or not lines:
            lines.append(line)
        elif not self._rules.skips:
            self._rules.refuse_size(f"{self._path}, line {self._start_line}")
        return num_bytes

    def _paragraph(self, lines: list[bytes], num_bytes: int) -> bytes:
        self._first_line, self._record_bytes = self._start_line, num_bytes
        return b"".join(lines)


class WholeFileReader(LineReader):
    """The whole file as one document."""

    max_bytes: float = MAX_FILE_DOCUMENT_BYTES

    def __init__(self, path: Path, mark: Mark | None, rules: Rules) -> None:
        super().__init__(path, mark, rules._replace(max_bytes=2**62))

    def __iter__(self) -> Iterator[bytes]:
        with file_errors(self._path):
            size_bytes = self._path.stat().st_size
        if size_bytes > self.max_bytes:
            raise DataError(
                f"{self._path}: {size_bytes:,} bytes as one document would not be streamed; "
                "set text_unit to paragraph or line"
            )
        data = b"".join(self._lines())
        self._first_line = 1
        if data.strip():
            yield data


class VerbatimReader(WholeFileReader):
    """The whole file, however large, with the line ends at its end, which a perplexity counts."""

    max_bytes = math.inf

    def text(self, record: bytes) -> str:
        super().text(record)
        return self._decoded(record).replace("\r\n", "\n").replace("\r", "\n")
