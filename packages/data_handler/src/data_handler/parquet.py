"""Readers of .parquet: rows of one string column, or of several columns, a few at a time.

What is checked, since a damaged file may otherwise give other text or fewer documents in silence:
check sums of pages where the writer made them (pyarrow: write_page_checksum), the numbers of rows that
file and row groups name against each other and against what was read, UTF-8. With check sums any
flipped bit is an error or changes nothing; without them, damage inside of a page that still unpacks to
UTF-8 cannot be seen. Sizes that the footer names are checked before a row group is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_handler.describing import one_line, shown
from data_handler.errors import DataError
from data_handler.records import (
    Reader,
    Rules,
    column_advice,
    field_text,
    file_errors,
)

_OPTIONS = {"buffer_size": 1024**2, "page_checksum_verification": True}
_ROWS_PER_READ = 256
_BOMB_RATIO = 256
"""Text shrinks to a tenth, at most to a fiftieth; a row group that unpacks to more than this many
times its bytes and to more than `_BOMB_RECORDS` records of the largest size is no text."""
_BOMB_RECORDS = 16


class ParquetReader(Reader):
    """A mark is [row]."""

    def __init__(self, path: Path, mark: list[int] | None, rules: Rules, column: str) -> None:
        self._path = path
        self._column = column
        self._columns = [column]
        self._rules = rules
        self._row = mark[0] if mark else 0

    def mark(self) -> list[int]:
        return [self._row]

    def __iter__(self) -> Iterator[Any]:
        with file_errors(self._path):
            source = pa.OSFile(os.fsencode(self._path))
        try:
            with source, pq.ParquetFile(source, **_OPTIONS) as file:
                self._check_column(file.schema_arrow)
                self._check_rows(file.metadata)
                yield from self._rows(file)
        except (pa.ArrowException, OSError, IndexError, UnicodeError) as error:
            raise self._damaged(one_line(error)) from error

    def _damaged(self, problem: str) -> DataError:
        return DataError(
            f"{self._path}: damaged parquet data after record {self._row} ({problem}); "
            "the file is cut off or broken: fetch or write it again"
        )

    def _check_column(self, schema: pa.Schema) -> None:
        names = [name for name in schema.names if name != self._column]
        if len(names) + 1 != len(schema.names):
            raise DataError(
                f"{self._path}: no column {self._column!r}; {column_advice(schema.names, self._rules)}"
            )
        kind = schema.field(self._column).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            is_chat = pa.types.is_list(kind) and pa.types.is_struct(kind.value_type)
            advice = self._rules.chat_advice if is_chat else column_advice(names, self._rules)
            raise DataError(f"{self._path}: column {self._column!r} holds {kind}, not text; {advice}")

    def _check_rows(self, metadata: pq.FileMetaData) -> None:
        groups = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        if metadata.num_rows != sum(groups):
            raise self._damaged(f"its row groups do not have the {metadata.num_rows:,} rows of the file")

    def _rows(self, file: pq.ParquetFile) -> Iterator[Any]:
        group_start = 0
        for group in range(file.num_row_groups):
            num_rows = file.metadata.row_group(group).num_rows
            if self._row < group_start + num_rows:
                self._check_size(file.metadata, group)
                yield from self._rows_of(file, group, group_start, num_rows)
            group_start += num_rows

    def _check_size(self, metadata: pq.FileMetaData, group: int) -> None:
        """What the footer says, before anything is unpacked.

        Sizes of single columns would be more exact, but pyarrow ends the process (an exception of C++ that
        nobody catches) when it is asked for those of a damaged footer.
        """
        size, packed = metadata.row_group(group).total_byte_size, self._path.stat().st_size
        if size > _BOMB_RECORDS * self._rules.max_bytes and size > _BOMB_RATIO * packed:
            raise DataError(
                f"{self._path}: row group {group + 1} of {metadata.num_row_groups} unpacks to {size:,} bytes "
                f"and the whole file has {packed:,}, which is no text; leave the file out"
            )

    def _rows_of(self, file: pq.ParquetFile, group: int, group_start: int, num_rows: int) -> Iterator[Any]:
        row = group_start
        for batch in file.iter_batches(
            _ROWS_PER_READ, row_groups=[group], columns=self._columns, use_threads=False
        ):
            for value in self._values(batch.slice(max(0, self._row - row))):
                self._row += 1
                yield value
            row += batch.num_rows
        if row != group_start + num_rows:
            raise self._damaged(f"{row - group_start:,} of {num_rows:,} rows were read")

    def _values(self, batch: pa.RecordBatch) -> Iterable[Any]:
        """The rows of a batch."""
        return batch.column(0)

    def text(self, record: Any) -> str:
        data = record.as_buffer()
        if data is None:
            return field_text({self._column: None}, self._column, self._rules, self.place)
        if data.size > self._rules.max_bytes:
            self._rules.refuse_size(self.place())
        try:
            return str(data, "utf-8")
        except UnicodeDecodeError as error:
            found = f"{error.reason}: {shown(bytes(data)[error.start :][:8])}"
            self._rules.refuse(self.place(), f"not UTF-8 ({found})")

    def place(self, record: Any = None) -> str:
        return f"{self._path}, record {self._row}"


class ParquetRecordReader(ParquetReader):
    """Rows as dicts of those of `columns` that the file has."""

    def __init__(self, path: Path, mark: list[int] | None, rules: Rules, columns: Sequence[str]) -> None:
        super().__init__(path, mark, rules, "")
        self._wanted = columns

    def _check_column(self, schema: pa.Schema) -> None:
        self._columns = [name for name in self._wanted if schema.names.count(name) == 1]
        if not self._columns:
            raise DataError(
                f"{self._path}: none of the columns {list(self._wanted)}; it has {schema.names[:20]}: set "
                "another format"
            )

    def _values(self, batch: pa.RecordBatch) -> Iterable[Any]:
        rows: list[Any] = batch.to_pylist()
        return rows

    def fields(self, record: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        return self.place(), record
