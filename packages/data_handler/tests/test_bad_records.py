"""Records that are no text: named with both fixes, or passed over, counted and resumed exactly."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data_handler import BadRecordError, DataError, DataRequestError, SourceConfig, iter_documents
from data_handler.loader import PackedLoader, make_loader
from data_handler.readers import read_documents

BAD_LINES = {
    "cut off": (b'{"text": "cut o', "damaged record, Unterminated string"),
    "half a character": (rb'{"text": "a \ud800 b"}', r"half a character \('\\ud800'"),
    "other half": (rb'{"text": "\uDC00"}', "half a character"),
    "thousands of digits": (b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "damaged record, Exceeds the limit"),
    "deep": (b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "damaged record, .*recursion"),
    "a number": (b'{"text": 12}', r"field 'text' holds int \(12\), not text"),
    "a list of texts": (b'{"text": ["a"]}', r"field 'text' holds list \(\['a'\]\), not text"),
    "messages as text": (b'{"text": [{"role": "user", "content": "x"}]}', "apply_chat_template"),
    "messages beside": (b'{"messages": [{"role": "user"}]}', "there is 'messages': .*apply_chat_template"),
    "no UTF-8": (b'{"text": "\xff"}', r"not UTF-8 \(invalid start byte: b'\\xff"),
    "zero": (b'{"text": "a\0b"}', "damaged record, Invalid control character"),
    "many columns": (json.dumps({f"c{n}": n for n in range(999)}).encode(), "and 979 more"),
    "too large": (b'{"text": "' + b"x" * 300_000 + b'"}', "more than 250,000 bytes in one record"),
}
BOTH_FIXES = "; (mend or remove|split) it, .*or set on_bad_record: skip to go on without it$"


def source(path: object, **fields: object) -> SourceConfig:
    return SourceConfig("path", "mine", str(path), max_record_bytes=250_000, **fields)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_line_stops_or_is_passed_over(kind: str, name: str, tmp_path: Path) -> None:
    line, message = BAD_LINES[kind]
    data = b'{"text": "one"}\r\n\n' + line + b'\n{"text": "two"}'
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    with pytest.raises(BadRecordError, match=rf"{name}, line 3: .*{message}") as caught:
        list(iter_documents(source(path)))
    assert caught.match(BOTH_FIXES)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700 + len(str(path))
    assert list(iter_documents(source(path, on_bad_record="skip"))) == ["one", "two"]


@pytest.mark.parametrize("text_unit", ["line", "paragraph", "file"])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"\xff\xff", "not UTF-8"),
        (b"a\0b", "a byte of value 0"),
        (b"x" * 300_000, "more than 250,000 bytes"),
        (b"x" * 200_000 + b"\n" + b"y" * 200_000, "more than 250,000 bytes"),
    ],
)
def test_bad_pieces_of_a_txt(text_unit: str, bad: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\r\n" + bad + b"\n\ntwo")
    stopped = source(path, text_unit=text_unit)
    if "more than" in message and (text_unit == "file" or (text_unit == "line" and b"\n" in bad)):
        assert "one" in next(iter(iter_documents(stopped)))
        return
    with pytest.raises(BadRecordError, match=rf"a\.txt, line 3: {message}"):
        list(iter_documents(stopped))
    kept = iter_documents(source(path, text_unit=text_unit, on_bad_record="skip"))
    if text_unit == "file":
        with pytest.raises(DataError, match=r"no text is left of .*: 1 records were passed over as bad"):
            list(kept)
    else:
        assert list(kept) == ["one", "two"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xfeh\0i\0", "it is UTF-16"),
        (b"h\0i\0", "a byte of value 0"),
        (b"a\n\xe9\n", "line 2: not UTF-8"),
    ],
)
def test_texts_of_other_encodings_are_named(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    for read in (
        lambda: iter_documents(source(tmp_path / "a.txt")),
        lambda: read_documents(tmp_path / "a.txt"),
    ):
        with pytest.raises(BadRecordError, match=message):
            list(read())


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.gz"])
def test_a_byte_order_mark_is_left_out_everywhere(name: str, tmp_path: Path) -> None:
    data = b"\xef\xbb\xbf" + (b"one\r\ntwo" if name == "a.txt" else b'{"text": "one\\ntwo"}\r\n')
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert list(read_documents(tmp_path / name)) == ["one\ntwo"]
    (text,) = iter_documents(source(tmp_path / name))
    assert text.replace("\r", "") == "one\ntwo"


def test_bad_values_of_parquet(tmp_path: Path) -> None:
    values = [b"one", b"\xed\xa0\x80", None, b"x" * 300_000, b"two"]
    column = pa.array(values, pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    assert list(iter_documents(source(tmp_path / "a.parquet", on_bad_record="skip"))) == ["one", "two"]
    with pytest.raises(BadRecordError, match=r"record 2: not UTF-8 .*on_bad_record: skip"):
        list(iter_documents(source(tmp_path / "a.parquet")))
    chat = pa.table({"text": [[{"role": "user", "content": "x"}]]})
    pq.write_table(chat, tmp_path / "b.parquet")
    with pytest.raises(DataError, match="apply_chat_template"):
        list(iter_documents(source(tmp_path / "b.parquet")))


def test_advice_of_other_readers_names_no_option_that_they_lack(tmp_path: Path) -> None:
    for data in (b"{", b'{"body": "x"}', b'{"text": "' + b"x" * 70_000_000 + b'"}'):
        (tmp_path / "a.jsonl").write_bytes(data)
        with pytest.raises(BadRecordError, match=r"a\.jsonl, line 1") as caught:
            list(read_documents(tmp_path / "a.jsonl"))
        assert "on_bad_record" not in str(caught.value)
        assert "text_column" not in str(caught.value)


def test_settings_that_cannot_be_meant_are_wrong_requests() -> None:
    for fields, message in (
        ({"on_bad_record": "ignore"}, r"on_bad_record is 'ignore', not one of \['stop', 'skip'\]"),
        ({"max_record_bytes": 0}, "max_record_bytes is 0; it is at least 1"),
    ):
        with pytest.raises(DataRequestError, match=message) as caught:
            SourceConfig("path", "mine", "a.jsonl", **fields)
        assert caught.value.exit_code == 2


# ---- counting and resuming


@pytest.fixture
def spoiled(tmp_path: Path) -> SourceConfig:
    """60 records, the bad ones at 0, 7, 14, ... and at the end."""
    lines = [
        '{"txt": 1}'
        if number % 7 == 0 or number == 59
        else json.dumps({"text": f"n-{number} " + "a " * number})
        for number in range(60)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    return source(tmp_path / "a.jsonl", on_bad_record="skip")


def loader(config: SourceConfig, tokenizer: Any, num_workers: int = 0) -> PackedLoader:
    return make_loader([config], tokenizer, 48, 2, num_workers=num_workers, block_documents=8)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_skipping_is_counted_and_resumed_exactly(
    spoiled: SourceConfig, tokenizer: Any, num_workers: int
) -> None:
    whole = list(islice(loader(spoiled, tokenizer, num_workers), 60))
    for at in range(1, 40, 4 if num_workers == 0 else 19):
        resumed = loader(spoiled, tokenizer, num_workers)
        resumed.load_state_dict(json.loads(json.dumps(whole[at - 1]["state"])))
        for old, new in zip(whole[at : at + 12], islice(resumed, 12), strict=True):
            assert torch.equal(old["input_ids"], new["input_ids"])
            assert json.dumps(old["state"]) == json.dumps(new["state"])
    found = resumed.skipped(after=whole[-1]["state"])["mine"]
    assert found.records > 10
    assert len(found.first) == 5
    assert all("a.jsonl, line " in place for place in found.first)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_one_pass_counts_every_bad_record_once(
    spoiled: SourceConfig, tokenizer: Any, num_workers: int
) -> None:
    spoiled.repeat = False
    once = loader(spoiled, tokenizer, num_workers)
    assert once.skipped() == {}
    assert len(list(once)) > 3
    assert once.skipped()["mine"].records == 10


@pytest.mark.parametrize("repeat", [True, False])
def test_a_source_of_bad_records_alone_ends_the_run(repeat: bool, tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"txt": 1}\n' * 9)
    config = source(tmp_path / "a.jsonl", on_bad_record="skip", repeat=repeat)
    with pytest.raises(DataError, match=r"9 records were passed over as bad, the first at .*line \d"):
        list(loader(config, tokenizer))


def test_the_errors_of_workers_are_one_line(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "a.jsonl").write_text('{"txt": 1}\n' * 9)
    with pytest.raises(BadRecordError, match=r"a\.jsonl, line") as caught:
        next(iter(loader(source(tmp_path / "a.jsonl"), tokenizer, 2)))
    assert "\n" not in str(caught.value)


Write = Callable[[Path, list[str]], None]


def write_jsonl(path: Path, lines: list[str]) -> None:
    path.write_text("".join(line + "\n" for line in lines))


def write_gzip(path: Path, lines: list[str]) -> None:
    path.write_bytes(gzip.compress("".join(line + "\n" for line in lines).encode()))


def write_parquet(path: Path, lines: list[str]) -> None:
    pq.write_table(pa.table({"text": [json.loads(line).get("text") for line in lines]}), path)


@pytest.mark.parametrize(
    ("name", "write"), [("a.jsonl", write_jsonl), ("a.jsonl.gz", write_gzip), ("a.parquet", write_parquet)]
)
def test_a_run_goes_on_after_the_bad_record_was_mended(
    name: str, write: Write, tokenizer: Any, tmp_path: Path
) -> None:
    """It goes on as if the record had been right from the start."""
    path = tmp_path / name
    lines = [json.dumps({"text": f"n-{number} " + "a " * (number % 40)}) for number in range(90)]
    write(path, lines)
    expected = list(islice(loader(source(path), tokenizer), 17))
    write(path, [*lines[:70], '{"txt": 1}', *lines[71:]])
    stopped: list[dict[str, Any]] = []
    with pytest.raises(BadRecordError, match=r"(line|record) 71"):
        stopped.extend(loader(source(path), tokenizer))
    state = json.loads(json.dumps(stopped[-1]["state"]))
    assert len(stopped) == 14
    write(path, [lines[0].replace("n-0", "somewhat longer"), *lines[1:]])
    resumed = loader(source(path), tokenizer)
    with pytest.raises(DataError, match="same names and another content") as caught:
        resumed.load_state_dict(state)
    assert caught.value.position_fits
    assert caught.value.sources == ["mine"]
    resumed.load_state_dict(state, accept_changed=True)
    for old, new in zip(expected[len(stopped) :], resumed, strict=False):
        assert torch.equal(old["input_ids"], new["input_ids"])
    loader(source(path), tokenizer).load_state_dict(resumed.state_dict())


def test_a_position_in_a_file_that_shrank_goes_on_with_the_next_epoch(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_jsonl(path, [json.dumps({"text": f"n-{number} and more words"}) for number in range(90)])
    state = list(islice(loader(source(path), tokenizer), 12))[-1]["state"]
    write_jsonl(path, ['{"text": "what is left"}'])
    resumed = loader(source(path), tokenizer)
    resumed.load_state_dict(state, accept_changed=True)
    assert "what is left" in tokenizer.decode(next(iter(resumed))["input_ids"].flatten())


def test_a_position_in_other_files_means_nothing(tokenizer: Any, tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        write_jsonl(tmp_path / name, ['{"text": "x"}'] * 9)
    pattern = source(tmp_path / "*.jsonl")
    state = next(iter(loader(pattern, tokenizer)))["state"]
    (tmp_path / "b.jsonl").unlink()
    with pytest.raises(DataError, match="it reads other files or columns") as caught:
        loader(pattern, tokenizer).load_state_dict(state, accept_changed=True)
    assert not caught.value.position_fits


def test_a_change_of_the_same_size_is_seen(tokenizer: Any, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ['{"text": "x"}'] * 9)
    state = next(iter(loader(source(tmp_path / "a.jsonl"), tokenizer)))["state"]
    write_jsonl(tmp_path / "a.jsonl", ['{"text": "y"}'] * 9)
    with pytest.raises(DataError, match="another content"):
        loader(source(tmp_path / "a.jsonl"), tokenizer).load_state_dict(state)
