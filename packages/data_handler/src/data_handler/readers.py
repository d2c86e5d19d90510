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

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_handler.config import SUFFIXES, SourceConfig, TextUnit
from data_handler.errors import DataRequestError
from data_handler.formats import Message, RecordFormat, UnfitRecordError
from data_handler.lines import JsonLinesReader, LineReader, ParagraphReader, VerbatimReader, WholeFileReader
from data_handler.parquet import ParquetReader, ParquetRecordReader
from data_handler.records import Reader, Rules

_TEXT_READERS = {
    TextUnit.file: WholeFileReader,
    TextUnit.paragraph: ParagraphReader,
    TextUnit.line: LineReader,
}


def open_reader(path: Path, config: SourceConfig, mark: Any, rules: Rules | None = None) -> Reader:
    """The reader for the file's suffix, one of `SUFFIXES`, standing after `mark`.

    Args:
        rules: of whoever is no run, whose advice is another; None: the source's own.
    """
    rules = rules or Rules.of(config)
    if (format_ := config.record_format) is not None:
        return _record_reader(path, mark, rules, format_)
    if path.suffix == ".txt":
        return _TEXT_READERS[config.text_unit](path, mark, rules)
    return _column_reader(path, mark, rules, config.text_column)


def _column_reader(path: Path, mark: Any, rules: Rules, column: str) -> Reader:
    kind = ParquetReader if path.suffix == ".parquet" else JsonLinesReader
    return kind(path, mark, rules, column)


def _record_reader(path: Path, mark: Any, rules: Rules, format_: RecordFormat) -> Reader:
    if path.suffix == ".parquet":
        return ParquetRecordReader(path, mark, rules, format_.fields)
    return JsonLinesReader(path, mark, rules, "")


def read_documents(path: Path, column: str = "text") -> Iterator[str]:
    """Documents of a text to evaluate on, in order: a .txt is one, word for word; the others have one
    a line or row, in the field `column`. Empty ones are left out.

    Raises:
        DataRequestError: a missing file or one of unknown kind.
        DataError: a damaged file, or a record without text; names file and line.
    """
    check_document_file(path)
    rules = Rules()
    is_plain = path.suffix == ".txt"
    reader = VerbatimReader(path, None, rules) if is_plain else _column_reader(path, None, rules, column)
    return filter(None, map(reader.text, reader))


def check_json_lines(path: Path) -> None:
    """Reads a .jsonl or .jsonl.gz through. Raises: DataError for a line that is not JSON, or broken gzip."""
    reader = JsonLinesReader(path, None, Rules(), "")
    for record in reader:
        reader.value(record)


def read_conversations(path: Path, format_: RecordFormat) -> Iterator[list[Message]]:
    """The messages of each supervised record of a file, in order.

    Raises: BadRecordError naming the first that is none.
    """
    rules = Rules()
    reader = _record_reader(path, None, rules, format_)
    for record in reader:
        yield conversation_of(reader, record, format_, rules)[1]


def check_records(path: Path, format_: RecordFormat) -> None:
    """Reads a file of supervised records through. Raises: BadRecordError naming the first that is none."""
    for _ in read_conversations(path, format_):
        pass


def conversation_of(
    reader: Reader, record: Any, format_: RecordFormat, rules: Rules
) -> tuple[str, list[Message]]:
    """Where the record yielded last is, and its messages. Raises: BadRecordError."""
    where, fields = reader.fields(record)
    try:
        return where, format_.messages(fields)
    except UnfitRecordError as error:
        rules.refuse(where, str(error))


def check_document_file(path: Path) -> None:
    """Raises: DataRequestError for a file that is missing or of no kind that `read_documents` knows."""
    if not path.is_file():
        raise DataRequestError(f"there is no text file {path}")
    if not path.name.endswith(SUFFIXES):
        raise DataRequestError(f"{path} is of no known kind (known: {', '.join(sorted(SUFFIXES))})")
