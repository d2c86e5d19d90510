"""Names of files, and documents with their places."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_handler import DataError, DataRequestError, TextUnit
from data_handler.corpus.domains import Domain, Reading, documents_of, parse_domains, parse_one


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., list[str]]:
    """(paths below a folder) -> them, each a file of one document."""

    def make(*names: str) -> list[str]:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text('{"text": "some words"}\n')
        return [str(tmp_path / name) for name in names]

    return make


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/x.jsonl", "b/y.jsonl"], ["x", "y"]),
        (["pretrain/books/train.jsonl", "pretrain/c4/train.jsonl"], ["books", "c4"]),
        (["a/train.jsonl", "a/test.jsonl", "b/train.jsonl"], ["a-train", "a-test", "b-train"]),
        (["odd name (1).jsonl"], ["odd_name_1_"]),
        (["train.jsonl", "train.txt"], None),
        (["a-b/c.jsonl", "a/b-c.jsonl", "x/c.jsonl", "x/b-c.jsonl"], None),
    ],
)
def test_files_are_called_by_what_tells_them_apart(
    files: Callable[..., list[str]], paths: list[str], names: list[str] | None
) -> None:
    if names is None:
        with pytest.raises(DataRequestError, match=r"both be called .*NAME=FILE"):
            parse_domains(files(*paths))
    else:
        assert [domain.name for domain in parse_domains(files(*paths))] == names


def test_files_of_one_name_and_of_a_pattern_are_one_domain(files: Callable[..., list[str]]) -> None:
    first, second, third = files("a.jsonl", "b-1.jsonl", "b-2.jsonl")
    pattern = second.replace("b-1", "b-*")
    domains = parse_domains([f"one={first}", f"two={pattern}"])
    expected = [Domain("one", (Path(first),)), Domain("two", (Path(second), Path(third)))]
    assert domains == expected
    assert parse_domains([f"one={first}", f"one={second}"])[0].files == (Path(first), Path(second))


def test_a_file_with_an_equals_sign_is_a_file(files: Callable[..., list[str]]) -> None:
    (path,) = files("lr=3.jsonl")
    assert parse_domains([path])[0].files == (Path(path),)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no file is given"),
        (["none.jsonl"], "none.jsonl does not exist"),
        (["x=none-*.jsonl"], "no file matches none-"),
        (["bad name=none.jsonl"], "'bad name' is no name"),
        (["x="], "'x=' names no file"),
        (["{a}", "x={a}"], "a.jsonl is given 2 times"),
        (["a={b}", "{a}"], "would be called 'a', as another is"),
        (["{folder}"], "is a folder; say which files"),
        (["{other}"], "has an unknown suffix"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    files: Callable[..., list[str]], tmp_path: Path, arguments: list[str], message: str
) -> None:
    a, b, other = files("a.jsonl", "b.jsonl", "b.csv")
    given = [argument.format(a=a, b=b, folder=tmp_path, other=other) for argument in arguments]
    with pytest.raises(DataRequestError, match=message):
        parse_domains(given)


def test_one_argument_is_one_domain(files: Callable[..., list[str]]) -> None:
    a, _ = files("a.jsonl", "b.jsonl")
    assert parse_one(a, "probe").name == "probe"
    assert parse_one(f"exam={a}", "probe").name == "exam"
    assert len(parse_one(a.replace("a.jsonl", "*.jsonl"), "probe").files) == 2


def test_documents_have_places_and_records(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = ['{"text": "one", "id": 7}', "", '{"text": " "}', '{ "text":"two" }']
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    found = list(documents_of(Domain("a", (path,)), Reading()))
    assert [(one.line, one.text, one.record) for one in found] == [
        (1, "one", lines[0].encode()),
        (4, "two", lines[3].encode()),
    ]
    assert found[1].place == f"{path}, line 4"


def test_parquet_and_txt_have_documents_without_records(tmp_path: Path) -> None:
    parquet, text = tmp_path / "a.parquet", tmp_path / "b.txt"
    pq.write_table(pa.table({"body": ["one", "two"]}), parquet)
    text.write_text("first\n\nsecond\nline\n")
    rows = list(documents_of(Domain("a", (parquet,)), Reading(text_column="body")))
    assert [(one.line, one.text, one.record) for one in rows] == [(1, "one", None), (2, "two", None)]
    parts = list(documents_of(Domain("b", (text,)), Reading(text_unit=TextUnit.paragraph)))
    assert [one.text for one in parts] == ["first", "second\nline"]
    assert parts[0].line < parts[1].line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty: it holds no text"),
        ('{"text": ""}\n', "is empty: it holds no text"),
        (
            '{"text": "a"}\n{"body": "b"}\n',
            "line 2: no field 'text'; name the field with --text-column, one of",
        ),
        ('{"text": "a"}\nnothing\n', "line 2: damaged record"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        list(documents_of(Domain("bad", (path,)), Reading()))
    assert str(path) in str(caught.value)


def test_lines_are_those_of_the_file_in_gzip_too(write_jsonl: Callable[..., Path]) -> None:
    path = write_jsonl(["a", "b"], "x.jsonl.gz")
    found = list(documents_of(Domain("x", (path,)), Reading()))
    assert [(one.line, json.loads(one.record or b"")["text"]) for one in found] == [(1, "a"), (2, "b")]
