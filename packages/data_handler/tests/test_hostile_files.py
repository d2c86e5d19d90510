"""Bytes that flip, files that unpack without end: an error or valid text, in bounded time and memory."""

from __future__ import annotations

import gzip
import json
import random
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_handler import DataError, SourceConfig, iter_documents, read_documents

TEXTS = [f"text {number} ü " + "river " * (number % 7) for number in range(40)]

PIECES = [b"", b"\0", b"\xff\xfe", b"\xed\xa0\x80", rb"\ud800", b"[" * 2000, b"\n\n"]


def written(name: str, folder: Path) -> bytes:
    path = folder / name
    if name.endswith(".parquet"):
        table = pa.table({"id": list(range(len(TEXTS))), "text": TEXTS})
        pq.write_table(table, path, row_group_size=15, write_page_checksum=True, store_schema=False)
    elif name.endswith(".txt"):
        path.write_text("\n\n".join(TEXTS))
    else:
        data = "".join(json.dumps({"text": text, "n": 1}) + "\n" for text in TEXTS).encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path.read_bytes()


def outcome(path: Path, **fields: object) -> list[str] | None:
    """The texts, None for an error of the data; anything else is raised."""
    return texts_of(iter_documents(SourceConfig("path", "mine", str(path), **fields)))


def texts_of(documents: Iterator[str]) -> list[str] | None:
    found: list[str] = []
    problem = ""
    try:
        found += documents
    except DataError as error:
        problem = str(error)
    assert "\n" not in problem
    for text in found:
        text.encode()
    return None if problem else found


def test_flipped_bits_of_parquet_with_check_sums_are_noticed(tmp_path: Path) -> None:
    """Every 19th bit, so all places of a byte."""
    path = tmp_path / "a.parquet"
    data = written("a.parquet", tmp_path)
    found: Counter[str] = Counter()
    for bit in range(0, 8 * len(data), 19):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        texts = outcome(path, text_unit="paragraph")
        assert texts is None or texts == TEXTS, bit
        found["refused" if texts is None else "equal"] += 1
    assert found["refused"] > 250 < found["equal"]  # flips of statistics and filling change nothing


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.txt", "a.parquet"])
@pytest.mark.parametrize("on_bad_record", ["stop", "skip"])
def test_mutated_files_are_refused_or_give_text(
    name: str, on_bad_record: str, tmp_path: Path, mutate: ModuleType
) -> None:
    generator = random.Random(name)
    path = tmp_path / name
    data = written(name, tmp_path)
    for _ in range(120):
        path.write_bytes(mutate.bytes_of(data, generator, PIECES))
        outcome(path, text_unit="paragraph", on_bad_record=on_bad_record)
        texts_of(read_documents(path))


@pytest.mark.parametrize("tail", [b"garbage", b"\x1f\x8bgarbage", gzip.compress(b'{"text": "x"}')[:-5]])
def test_what_follows_a_gzip_member_is_named(tail: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(written("a.jsonl.gz", tmp_path) + tail)
    with pytest.raises(DataError, match=r"a\.jsonl\.gz: damaged gzip data after line \d+"):
        list(iter_documents(SourceConfig("path", "mine", str(path))))


def test_gzip_members_follow_each_other(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(2 * written("a.jsonl.gz", tmp_path) + bytes(512))
    assert outcome(path) == TEXTS * 2


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.txt"])
@pytest.mark.parametrize("on_bad_record", ["stop", "skip"])
def test_a_line_without_end_is_never_in_memory(name: str, on_bad_record: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with (gzip.open if name.endswith("gz") else open)(path, "wb") as file:
        for _ in range(100):
            file.write(b"x" * 1024**2)
        file.write(b'\n{"text": "small"}\n')
    tracemalloc.start()
    fields = {"max_record_bytes": 2 * 1024**2, "text_unit": "line", "on_bad_record": on_bad_record}
    texts = outcome(path, **fields)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 20 * 1024**2
    assert texts is None if on_bad_record == "stop" else "small" in texts[0]


def test_a_column_that_unpacks_without_end_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x" * 40_000_000]}), path, compression="zstd")
    config = SourceConfig("path", "mine", str(path), max_record_bytes=1_000_000)
    before = pa.total_allocated_bytes()
    with pytest.raises(DataError, match=r"row group 1 of 1 unpacks to 40,0\d\d,\d{3} bytes"):
        list(iter_documents(config))
    assert pa.total_allocated_bytes() == before
