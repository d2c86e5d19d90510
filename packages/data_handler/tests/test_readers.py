"""Formats, marks and what happens to damaged files."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_handler import DataError, SourceConfig, iter_documents, read_documents
from data_handler.lines import MAX_FILE_DOCUMENT_BYTES, WholeFileReader
from data_handler.readers import open_reader

TEXTS = [f"text {i}\nsecond line ü" for i in range(700)]


def jsonl(path: Path) -> None:
    path.write_text("\n\n".join(json.dumps({"text": text, "id": 1}) for text in TEXTS))


def jsonl_gz(path: Path) -> None:
    path.write_bytes(gzip.compress("\n".join(json.dumps({"text": t}) for t in TEXTS).encode()))


def parquet(path: Path) -> None:
    table = pa.table({"id": list(range(len(TEXTS))), "text": TEXTS})
    pq.write_table(table, path, row_group_size=300)


def paragraphs(path: Path) -> None:
    path.write_text("\n" + "\n\n \n".join(TEXTS) + "\n")


WRITERS: dict[str, Callable[[Path], None]] = {
    "a.jsonl": jsonl,
    "a.jsonl.gz": jsonl_gz,
    "a.parquet": parquet,
    "a.txt": paragraphs,
}


def source(location: object, **fields: object) -> SourceConfig:
    return SourceConfig("path", "mine", location, **{"text_unit": "paragraph"} | fields)


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_texts_in_order(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    assert list(iter_documents(source(str(tmp_path / name)))) == TEXTS


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("position", [0, 1, 299, 300, 301, 555, 700])
def test_a_mark_is_returned_to(name: str, position: int, tmp_path: Path) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    first = open_reader(path, source(str(path)), None)
    records = iter(first)
    for _ in range(position):
        next(records)
    mark = json.loads(json.dumps(first.mark()))
    again = open_reader(path, source(str(path)), mark)
    assert [again.text(record) for record in again] == TEXTS[position:]


def test_going_back_in_parquet_reads_one_row_group_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet(tmp_path / "a.parquet")
    groups: list[int] = []
    original = pq.ParquetFile.iter_batches

    def spy(self: object, *args: object, row_groups: list[int], **options: object) -> object:
        groups.extend(row_groups)
        return original(self, *args, row_groups=row_groups, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
    reader = open_reader(tmp_path / "a.parquet", source("a.parquet"), [610])
    assert [reader.text(record) for record in reader] == TEXTS[610:]
    assert groups == [2]


def test_units_of_txt(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n\nthree\n")

    def texts(unit: str) -> list[str]:
        return list(iter_documents(source(str(path), text_unit=unit)))

    assert texts("file") == ["one\ntwo\n\nthree"]
    assert texts("paragraph") == ["one\ntwo", "three"]
    assert texts("line") == ["one", "two", "three"]


def test_a_txt_too_long_for_one_document_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_DOCUMENT_BYTES + 1)
    with pytest.raises(DataError, match=r"a\.txt: 268,435,457 bytes .*set text_unit"):
        list(iter_documents(source(str(path), text_unit="file")))


def test_globs_and_lists_each_file_once(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "folder.txt").mkdir()
    both = [str(tmp_path / "c.txt"), str(tmp_path / "*.txt")]
    assert list(iter_documents(source(both))) == ["c.txt", "a.txt", "b.txt"]


def test_location_errors_name_the_place(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x")
    for location, message in {
        "none.jsonl": r"the file .*none\.jsonl does not exist",
        "*.parquet": r"no file matches .*\*\.parquet",
        ".": r"is a folder; say which files",
        "a.csv": r"a\.csv has an unknown suffix; known: \['\.jsonl'",
    }.items():
        with pytest.raises(DataError, match=message):
            list(iter_documents(source(str(tmp_path / location))))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "cut o', "damaged record"),
        (b'{"title": "x"}', r"no field 'text'; set text_column to one of \['title'\]"),
        (b'{"text": null}', "field 'text' holds NoneType"),
        (b'["x"]', "here is list"),
        (b'{"text": "\xff"}', "not UTF-8"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_line_is_named(line: bytes, message: str, packed: bool, tmp_path: Path) -> None:
    path = tmp_path / ("a.jsonl.gz" if packed else "a.jsonl")
    data = b'{"text": "good"}\n\n' + line + b"\n"
    path.write_bytes(gzip.compress(data) if packed else data)
    documents = iter_documents(source(str(path)))
    assert next(documents) == "good"
    with pytest.raises(DataError, match=rf"a\.jsonl(\.gz)?, line 3: .*{message}"):
        next(documents)


def test_txt_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"good\n\n\xff\n")
    with pytest.raises(DataError, match=r"a\.txt, line 3: not UTF-8"):
        list(iter_documents(source(str(tmp_path / "a.txt"))))


@pytest.mark.parametrize("damage", ["cut", "no gzip", "wrong checksum"])
def test_damaged_gzip_is_named(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    jsonl_gz(path)
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "no gzip":
        path.write_bytes(b"plain text")
    else:
        path.write_bytes(data[:-8] + b"\0" * 8)
    with pytest.raises(DataError, match=r"a\.jsonl\.gz: damaged gzip data after line \d+"):
        list(iter_documents(source(str(path))))


@pytest.mark.parametrize("damage", ["cut", "no parquet", "page"])
def test_damaged_parquet_is_named(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet(path)
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "no parquet":
        path.write_bytes(b"plain text")
    else:
        path.write_bytes(data[:4] + b"\xff" * (len(data) // 2) + data[4 + len(data) // 2 :])
    with pytest.raises(DataError, match=r"a\.parquet: damaged parquet data after record \d+"):
        list(iter_documents(source(str(path))))


def test_parquet_columns_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": [1, 2], "text": ["x", None]}), path)
    for column, message in {
        "body": r"a\.parquet: no column 'body'; set text_column to one of \['id', 'text'\]",
        "id": r"a\.parquet: column 'id' holds int64, not text",
        "text": r"a\.parquet, record 2: field 'text' holds NoneType",
    }.items():
        with pytest.raises(DataError, match=message):
            list(iter_documents(source(str(path), text_column=column)))


def test_real_text(shared_data: Path) -> None:
    files = str(shared_data / "pretrain" / "tinystories" / "*.jsonl.gz")
    texts = list(iter_documents(source(files)))
    assert len(texts) == 1812 + 117  # by the folder's own list


def test_documents_to_evaluate_on_are_taken_word_for_word(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\n\n")
    assert list(read_documents(tmp_path / "a.txt")) == ["one\ntwo\n\n"]
    (tmp_path / "empty.txt").write_text("")
    assert list(read_documents(tmp_path / "empty.txt")) == []
    (tmp_path / "a.jsonl").write_text('{"text": "x\\u2028y\\n"}\n\n{"text": ""}\n{"text": "z"}')
    assert list(read_documents(tmp_path / "a.jsonl")) == ["x\u2028y\n", "z"]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"body": "x"}'))
    assert list(read_documents(tmp_path / "a.jsonl.gz", "body")) == ["x"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"x", r"no known kind \(known: .jsonl, .jsonl.gz, .parquet, .txt\)"),
        ("a.txt", b"\xff", "a.txt, line 1: not UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n{', "a.jsonl, line 2: damaged record"),
        ("a.jsonl", b'{"body": "x"}', r"a.jsonl, line 1: no field 'text'.*\['body'\]"),
        ("a.jsonl.gz", b"plain", "damaged gzip"),
    ],
)
def test_damaged_evaluation_texts_are_named(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        list(read_documents(tmp_path / name))
    with pytest.raises(DataError, match="there is no text file"):
        list(read_documents(tmp_path / "missing.txt"))


def test_a_large_evaluation_text_is_one_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training refuses such a file as one document; a perplexity needs it whole."""
    monkeypatch.setattr(WholeFileReader, "max_bytes", 10)
    path = tmp_path / "a.txt"
    path.write_text("more than ten bytes")
    with pytest.raises(DataError, match="set text_unit"):
        list(iter_documents(source(str(path), text_unit="file")))
    assert list(read_documents(path)) == ["more than ten bytes"]


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.jsonl", b"[1]\n"), ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 999)[:-9])],
)
def test_evaluation_records_of_another_kind_and_cut_files_are_named(
    tmp_path: Path, name: str, data: bytes
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=name):
        list(read_documents(tmp_path / name))
