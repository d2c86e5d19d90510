"""Files of a location: links, circles, order; files that go while they are read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from data_handler import DataError, DataRequestError, SourceConfig, iter_documents
from data_handler.sources.files import expand


def names(location: object, folder: Path) -> list[str]:
    files = expand(SourceConfig("path", "mine", location))
    return [file.relative_to(folder).as_posix() for file in files]


def test_links_in_a_circle_give_each_file_once(tmp_path: Path) -> None:
    for name in ("b/x.jsonl", "a/y.jsonl", "z.jsonl", "a/.hidden/h.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    for number in range(3):  # followed without memory, three make 3 ** 40 ways
        (tmp_path / "a" / f"circle{number}").symlink_to(tmp_path)
    (tmp_path / "again.jsonl").symlink_to(tmp_path / "a" / "y.jsonl")
    expected = ["a/y.jsonl", "b/x.jsonl", "z.jsonl"]
    anywhere = str(tmp_path / "**" / "*.jsonl")
    assert sorted(names(anywhere, tmp_path)) == expected
    assert names(anywhere, tmp_path) == names(anywhere, tmp_path)
    assert sorted(names(str(tmp_path / "**"), tmp_path)) == expected
    assert len(names(str(tmp_path / "**" / "a" / "**" / "*.jsonl"), tmp_path)) == len(expected)
    assert names([str(tmp_path / "again.jsonl"), str(tmp_path / "a" / "*.jsonl")], tmp_path) == [
        "again.jsonl"
    ]


def test_a_folder_that_a_link_leads_to_is_read(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "x.jsonl").write_text("")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(elsewhere)
    assert names(str(tmp_path / "data/**/*.jsonl"), tmp_path) == ["data/link/x.jsonl"]


@pytest.mark.parametrize("target", ["nowhere.jsonl", "loop.jsonl"])
def test_a_link_to_nothing_is_not_left_out_in_silence(target: str, tmp_path: Path) -> None:
    (tmp_path / "good.jsonl").write_text('{"text": "x"}')
    (tmp_path / "loop.jsonl").symlink_to(target)
    for pattern in ("*.jsonl", "**/*.jsonl"):
        with pytest.raises(DataRequestError, match=r"loop\.jsonl is a link that leads nowhere"):
            expand(SourceConfig("path", "mine", str(tmp_path / pattern)))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.txt", "a.parquet"])
def test_a_file_that_goes_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    documents = iter_documents(SourceConfig("path", "mine", str(tmp_path / name)))
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=rf"{name}: cannot be read \(.*No such file"):
        list(documents)


def test_strange_locations_are_one_line(tmp_path: Path) -> None:
    for location in ("~nobody_here_at_all/x.jsonl", "a\0b.jsonl", "x" * 5000 + ".jsonl"):
        with pytest.raises(DataError):
            expand(SourceConfig("path", "mine", location))


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff= ,('.jsonl")
    Path(path).write_text('{"text": "x"}')
    assert list(iter_documents(SourceConfig("path", "mine", path))) == ["x"]
    Path(path).write_text("{")
    with pytest.raises(DataError, match="line 1: damaged record"):
        list(iter_documents(SourceConfig("path", "mine", path)))
