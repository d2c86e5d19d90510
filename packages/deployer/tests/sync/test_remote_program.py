"""The remote's side, run here: it deletes only what was sent, and nothing leads out of the folder."""

from __future__ import annotations

import ast
import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from wf_deployer.sync import remote_program
from wf_deployer.sync.remote_program import RECORD, Tree, answer, link_identity, text


def ask(what: str, folder: Path, **values: Any) -> dict[str, Any]:
    return answer({"ask": what, "dir": str(folder), **values})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The target, beside a folder that is nobody's business."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "mine").write_text("mine")
    target = tmp_path / "there"
    (target / "a" / "b").mkdir(parents=True)
    (target / "a" / "b" / "ours").write_text("ours")
    (target / "a" / "result").write_text("result")
    return target


def identity(folder: Path, path: str) -> str:
    found = Tree(str(folder).encode()).identity(path)
    assert found is not None
    return found


def test_a_look_changes_nothing_and_makes_nothing(tmp_path: Path) -> None:
    seen = ask("look", tmp_path / "new", paths=["a", "b/c"])
    assert seen["identities"] == {"a": None, "b/c": None}
    assert seen["record"] is None
    assert not (tmp_path / "new").exists()


def test_what_was_sent_is_deleted_with_folders_that_become_empty(folder: Path) -> None:
    ours = identity(folder, "a/b/ours")
    done = ask(
        "begin",
        folder,
        abandoned=[],
        delete={"a/b/ours": ["f0", ours], "a/result": ["f0"], "nothing": ["f0"]},
        send=[],
    )
    assert done == {"deleted": ["a/b/ours"], "kept": ["a/result"], "obstacles": {}}
    assert not (folder / "a" / "b").exists()
    assert (folder / "a" / "result").read_text() == "result"


@pytest.mark.parametrize(
    "path", ["../outside/mine", "/etc/hostname", "a/../../outside/mine", "", "a//b", "./a"]
)
def test_no_path_leads_out_by_its_name(folder: Path, path: str) -> None:
    mine = identity(folder.parent, "outside/mine")
    for request in (
        {"ask": "look", "paths": [path]},
        {"ask": "begin", "abandoned": [], "delete": {path: [mine]}, "send": []},
        {"ask": "begin", "abandoned": ["../outside/mine"], "delete": {}, "send": []},
        {"ask": "begin", "abandoned": [], "delete": {}, "send": [path]},
        {"ask": "finish", "write": {path: {"content": "", "mode": 0o644}}, "expected": {}},
    ):
        assert "does not stay in the folder" in answer({"dir": str(folder), **request})["error"]
    assert (folder.parent / "outside" / "mine").read_text() == "mine"


def test_no_path_leads_out_through_a_link(folder: Path) -> None:
    mine = identity(folder.parent, "outside/mine")
    (folder / "way").symlink_to(folder.parent / "outside")
    assert ask("look", folder, paths=["way/mine", "way"])["identities"] == {
        "way/mine": None,
        "way": link_identity(str(folder.parent / "outside").encode()),
    }
    assert ask("begin", folder, abandoned=[], delete={"way/mine": [mine]}, send=[])["deleted"] == []
    write = {"way/new": {"content": "", "mode": 0o644}}
    assert "is a link on that machine" in ask("finish", folder, write=write, expected={})["error"]
    assert sorted(path.name for path in (folder.parent / "outside").iterdir()) == ["mine"]


def test_what_is_in_the_way_is_named_once_and_stays(folder: Path) -> None:
    outside = folder.parent / "outside"
    (folder / "way").symlink_to(outside)
    (folder / "a" / "broken").symlink_to("nowhere")
    paths = ["way/x/y", "way/mine", "a/result/z", "a/broken/b/c", "a/b/new", "new/folder/x", "way"]
    expected = {"way": f"a link to {outside}", "a/result": "a file", "a/broken": "a link to nowhere"}
    assert ask("look", folder, paths=paths)["obstacles"] == expected
    assert ask("begin", folder, abandoned=[], delete={}, send=paths)["obstacles"] == expected


def test_the_record_is_completed_only_when_all_has_arrived(folder: Path) -> None:
    ours = {"a/b/ours": identity(folder, "a/b/ours")}
    ask("begin", folder, abandoned=[], delete={}, send=[])
    assert ask("look", folder, paths=[])["record"]["nonce"] is None
    final = {"write": {}, "nonce": "n", "checksum": "c"}
    assert ask("finish", folder, expected=ours | {"missing": "f1"}, **final) == {"wrong": ["missing"]}
    assert ask("look", folder, paths=[])["record"]["nonce"] is None
    assert ask("finish", folder, expected=ours, **final) == {"wrong": []}
    assert ask("look", folder, paths=[])["record"] == {"format": 1, "nonce": "n", "checksum": "c", "deps": {}}


def test_files_are_written_whole_with_their_mode(folder: Path) -> None:
    (folder / "x.wf-sync-tmp").write_text("of a sync that was killed")
    content = base64.b64encode(b"\0new").decode()
    write = {"x": {"content": content, "mode": 0o755}}
    ask("finish", folder, write=write, expected={}, nonce="n", checksum="c")
    assert (folder / "x").read_bytes() == b"\0new"
    assert (folder / "x").stat().st_mode & 0o777 == 0o755
    assert {path.name for path in folder.iterdir()} == {"a", "x", RECORD}


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"format": 1}', "\xff", '{"format":2,"nonce":1,"checksum":1,"deps":{}}']
)
def test_a_record_that_is_not_ours_is_none(folder: Path, content: str) -> None:
    (folder / RECORD).write_bytes(content.encode("latin-1"))
    assert ask("look", folder, paths=[])["record"] is None


def test_a_record_that_is_a_link_is_none_and_is_replaced(folder: Path) -> None:
    (folder / RECORD).symlink_to(folder.parent / "outside" / "mine")
    assert ask("look", folder, paths=[])["record"] is None
    ask("begin", folder, abandoned=[], delete={}, send=[])
    assert (folder.parent / "outside" / "mine").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/", "is the root"),
        ("/.", "is the root"),
        ("~nobody-there/x", "names no user"),
        ("FILE", "is a file"),
    ],
)
def test_folders_that_are_none(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "file").touch()
    found = answer({"ask": "look", "dir": name.replace("FILE", str(tmp_path / "file")), "paths": []})
    assert words in found["error"]


def test_errors_of_the_system_name_the_path(folder: Path) -> None:
    error = ask("look", folder, paths=["x" * 300])["error"]
    assert "File name too long" in error
    assert "xxx" in error


def test_older_pythons_read_the_program() -> None:
    source = Path(remote_program.__file__).read_text()
    ast.parse(source, feature_version=(3, 7))


def test_the_program_runs_alone(folder: Path) -> None:
    """In a locale without UTF-8, with a name that is none."""
    name = text(b"\xff \n")
    (folder / name).write_text("x")
    source = Path(remote_program.__file__).read_text()
    request = json.dumps({"ask": "look", "dir": str(folder), "paths": [name, "a/result"]})
    command = [sys.executable, "-Ic", source]
    done = subprocess.run(
        command, input=request, capture_output=True, text=True, check=True, env={"LC_ALL": "C"}
    )
    assert None not in json.loads(done.stdout)["identities"].values()
