"""Exports come from a hub whole or not at all, checked, and resumed; and `wf list` shows what is here."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import huggingface_hub
import huggingface_hub.constants
import huggingface_hub.utils
import numpy as np
import pytest
from hub_server import TOKEN, Hub, Repository, connected
from typer.testing import CliRunner

from wf_converter import pull as pull_module
from wf_converter.command import command_line
from wf_converter.listing import list_command
from wf_converter.pull import PULLED, pull
from wf_formats.errors import RequestError
from wf_formats.exports import find_exports, named_model, newest_export

NAME = "them/model"
GGUF = np.random.default_rng(0).bytes(300_000)


def files_of_an_export() -> dict[str, bytes]:
    files = {"model.gguf": GGUF, "README.md": b"---\nbase_model: org/base\n---\n# Card\n"}
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
    return files | {"SHA256SUMS": sums.encode()}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A hub with one published export; nobody waits between tries, and the working folder is the test's."""
    with connected(monkeypatch, tmp_path) as running:
        monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        put(running, files_of_an_export())
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        yield running


def put(hub: Hub, files: dict[str, bytes], name: str = NAME) -> None:
    hub.repositories.setdefault(name, Repository()).commit("main", files, "export")


def run(*arguments: object, command: Any = pull) -> Any:
    return CliRunner().invoke(command_line(command), [str(argument) for argument in arguments])


def line(done: Any, exit_code: int) -> str:
    assert "Traceback" not in done.output
    assert done.exit_code == exit_code, done.output
    lines = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
    assert len(lines) == 1, done.output
    return lines[0]


def here() -> set[str]:
    """All files below the working folder."""
    return {str(path) for path in Path().rglob("*") if path.is_file()}


@pytest.mark.parametrize("given", [NAME, f"hub:{NAME}"])
def test_an_export_becomes_a_folder_with_its_record(hub: Hub, given: str) -> None:
    done = run(given)
    assert done.exit_code == 0, done.output
    folder = Path("outputs/models/them/model")
    assert done.stdout == f"{folder}\n"
    commit = hub.repositories[NAME].branches["main"]
    assert done.stderr.strip().endswith(f"pulled {NAME} at {commit[:12]}")
    assert {path.name for path in folder.iterdir()} == {*files_of_an_export(), "pulled.json"}
    for name, data in files_of_an_export().items():
        assert (folder / name).read_bytes() == data
    record = json.loads((folder / "pulled.json").read_text())
    assert (record["repository"], record["revision"], record["commit"]) == (NAME, "main", commit)
    assert os.listdir(folder.parent) == ["model"]  # nothing unfinished is left
    assert named_model(NAME) == str(folder / "model.gguf")
    assert next(find_exports()) == folder / "model.gguf"


def test_what_is_there_is_not_fetched_again_and_a_newer_commit_is(hub: Hub) -> None:
    run(NAME)
    sent = hub.sent_bytes
    assert run(NAME).stderr.startswith("unchanged: ")
    assert hub.sent_bytes == sent
    newer = files_of_an_export() | {"README.md": b"new"}
    newer["SHA256SUMS"] = b""
    put(hub, newer)
    assert run(NAME).exit_code == 0
    assert Path("outputs/models/them/model/README.md").read_bytes() == b"new"
    (Path("outputs/models/them/model") / "model.gguf").unlink()
    assert "pulled" in run(NAME).stderr
    assert Path("outputs/models/them/model/model.gguf").read_bytes() == GGUF


def test_a_download_that_was_cut_off_goes_on_from_there(hub: Hub) -> None:
    hub.cut_bodies["model.gguf"] = [100_000, *[0] * 40]
    told = line(run(NAME), 1)
    assert "try again, it goes on from there" in told
    assert hub.url in told
    assert not Path("outputs/models/them/model").exists()
    assert list(find_exports()) == []
    hub.cut_bodies.clear()
    sent = hub.sent_bytes
    assert run(NAME).exit_code == 0
    assert hub.sent_bytes - sent <= len(GGUF) - 90_000 + 1_000
    assert Path("outputs/models/them/model/model.gguf").read_bytes() == GGUF


def test_a_killed_pull_leaves_nothing_that_looks_whole(hub: Hub) -> None:
    """In a process of its own, killed while the last step is about to be taken."""
    program = (
        "import os, signal, wf_converter.pull as p\n"
        "def die(*a): os.kill(os.getpid(), signal.SIGKILL)\n"
        "p.atomic_folder = die\n"
        f"p._fetch({NAME!r}, 'main', p.Path('outputs/models/{NAME}').absolute(), ())\n"
    )
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    killed = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, check=False
    )
    assert killed.returncode == -9, killed.stderr
    assert not Path("outputs/models/them/model").exists()
    assert list(find_exports()) == []
    sent = hub.sent_bytes
    assert run(NAME).exit_code == 0
    assert hub.sent_bytes == sent  # all had arrived, and was checked again
    assert os.listdir("outputs/models/them") == ["model"]


@pytest.mark.parametrize("name", ["model.gguf", "README.md"])
def test_what_arrives_damaged_is_refused(hub: Hub, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    download = pull_module._download

    def damaging(repository: str, entry: Any, commit: str, part: Path) -> None:
        download(repository, entry, commit, part)
        if entry.path == name:
            part.write_bytes(part.read_bytes()[:-1] + b"?")

    monkeypatch.setattr(pull_module, "_download", damaging)
    assert f"{name} of {NAME} arrived damaged" in line(run(NAME), 1)
    assert not Path("outputs/models/them/model").exists()
    monkeypatch.undo()


def test_a_file_that_is_not_the_one_of_its_checksums_is_refused(hub: Hub) -> None:
    """The hub has it as it is; whoever published meant another."""
    put(hub, {"model.gguf": GGUF[::-1]})
    assert f"model.gguf of {NAME} arrived damaged" in line(run(NAME), 1)
    assert not Path("outputs/models/them/model").exists()


def test_code_and_pickles_stay_there(hub: Hub) -> None:
    folder = {"config.json": b"{}", "model.safetensors": b"x", "modeling.py": b"x", "pytorch_model.bin": b"x"}
    odd = {"../up.gguf": b"x", "a/b.gguf": b"x", "additional_chat_templates/tools.jinja": b"x"}
    put(hub, folder | odd, "them/folder")
    assert run("them/folder", "--output", "there").exit_code == 0
    found = {str(path.relative_to("there")) for path in Path("there").rglob("*") if path.is_file()}
    wanted = {"config.json", "model.safetensors", "additional_chat_templates/tools.jinja", "pulled.json"}
    assert found == wanted
    assert not Path("up.gguf").exists()


def test_one_of_several_models_is_named(hub: Hub) -> None:
    put(hub, {"a.gguf": b"a", "b.gguf": b"b", "README.md": b"card"}, "them/many")
    told = line(run("them/many"), 2)
    assert "has several models (a.gguf, b.gguf): give one with --file" in told
    assert "has no file 'c.gguf'; its GGUF files: a.gguf, b.gguf" in line(
        run("them/many", "--file", "c.gguf"), 2
    )
    assert here() == set()
    assert run("them/many", "--file", "b.gguf").exit_code == 0
    assert {path.rpartition("/")[2] for path in here()} == {"b.gguf", "README.md", "pulled.json"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model"], "give it as ORG/NAME"),
        (["a/b/c"], "is no repository of the hub"),
        (["them/../x"], "is no repository of the hub"),
        (["https://hub/them/model"], "is no repository of the hub"),
        (["them/gone"], "them/gone is not there, or hidden (404): check the name, or log in"),
        ([NAME, "--revision", "v2"], "has no revision 'v2': check --revision"),
        (["them/empty"], "has no config.json and no .gguf file: it is no export"),
        ([NAME, "--output", "file"], "is not replaced: it is a file"),
        ([NAME, "--output", "file/x"], "is no folder"),
        ([NAME, "--output", "mine"], "thesis.txt in it is not of a pulled model"),
        ([NAME, "--output", "gs://bucket/x"], "is a URL"),
    ],
    ids=str,
)
def test_refusals_change_nothing(hub: Hub, arguments: list[str], words: str) -> None:
    put(hub, {"notes.txt": b"x"}, "them/empty")
    Path("file").write_text("x")
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("keep")
    before = here()
    assert words in line(run(*arguments), 2)
    assert here() == before


def test_a_token_comes_from_the_environment_and_is_never_shown(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.faults["/api/models/them/model/revision"] = [401]
    assert "set HF_TOKEN to a token that may read it" in line(run(NAME), 2)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.faults["/api/models/them/model/revision"] = [403]
    done = run(NAME)
    assert "is not there, or hidden (403)" in line(done, 2)
    assert TOKEN not in done.output


def test_a_hub_that_does_not_serve_now_is_asked_again(hub: Hub) -> None:
    hub.faults["/api/models/them/model/revision"] = [503, 429, 502]
    assert run(NAME).exit_code == 0
    hub.faults["/api/models/them/model/revision"] = [503] * 9
    assert "does not serve this now (503): try again later" in line(run(NAME), 1)


def test_too_little_room_is_said_before_anything_is_fetched(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 1000))
    assert "50 MB are needed and 0 MB are free" in line(run(NAME), 2)
    assert hub.sent_bytes == 0


def test_a_full_disk_is_no_broken_connection(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pull_module, "_download", full)
    told = line(run(NAME), 1)
    assert "outputs/models/them/model: No space left on device; free some space" in told
    assert not Path("outputs/models/them/model").exists()


def test_two_at_once_do_not_meet(hub: Hub) -> None:
    target = Path("outputs/models/them/model").absolute()
    with pull_module._staging(target):
        assert f"another wf pull is fetching {target}: wait for it" in line(run(NAME), 2)
    assert run(NAME).exit_code == 0
    PULLED.check(target)


def tiny_gguf(path: Path, kind: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    if kind is not None:
        writer.add_type(kind)
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def aged(path: Path, time_s: float) -> None:
    os.utime(path, (time_s, time_s))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_exports_are_found_newest_first(place: Path) -> None:
    expected = ["outputs/run/export/model.gguf", "mine.gguf", "packed", "outputs/old.gguf"]
    for name in (*expected, "outputs/.model.part/model.gguf", "src/not/here.gguf"):
        if name.endswith(".gguf"):
            tiny_gguf(Path(name))
    tiny_gguf(Path("adapter.gguf"), "adapter")
    for name, record in (("packed", {"export": {"files": []}}), ("outputs/run/stage1", {"conversion": {}})):
        Path(name).mkdir(parents=True)
        (Path(name) / "config.json").write_text("{}")
        (Path(name) / "wrinklefree.json").write_text(json.dumps(record))
    Path("outputs/loop").symlink_to("..")
    Path("gone.gguf").symlink_to("nowhere")
    for age, name in enumerate(expected):
        path = Path(name)
        aged(path / "wrinklefree.json" if path.is_dir() else path, 1_000_000_000 - age)
    assert list(map(str, find_exports())) == expected
    assert str(newest_export()) == expected[0]


def test_where_there_is_none_the_commands_that_make_one_are_named(place: Path) -> None:
    with pytest.raises(RequestError) as error:
        newest_export()
    assert all(command in str(error.value) for command in ("wf quickstart", "wf export", "wf pull"))
    assert "wf quickstart" in run(command=list_command).stdout
    assert json.loads(run("--json", command=list_command).stdout) == []


def test_names_of_models(place: Path) -> None:
    tiny_gguf(Path("one/x.gguf"))
    tiny_gguf(Path("one/a.gguf"), "adapter")
    for name in ("x", "y"):
        tiny_gguf(Path(f"two/{name}.gguf"))
    assert named_model("one") == "one/x.gguf"
    with pytest.raises(RequestError, match=r"two has several models \(x.gguf, y.gguf\)"):
        named_model("two")
    for empty in ("", " ", "hub:"):
        with pytest.raises(RequestError, match="names no model"):
            named_model(empty)
    for given in ("http://127.0.0.1:8080", "/nothing/here", "nothing/here.gguf", "one/x.gguf"):
        assert named_model(given) == given
    with pytest.raises(
        RequestError, match="no folder nobody/x, neither here nor in outputs/models: `wf pull nobody/x`"
    ):
        named_model("nobody/x")
    tiny_gguf(Path("outputs/models/one/x.gguf"))
    assert named_model("hub:one") == "outputs/models/one/x.gguf"
    with pytest.raises(RequestError, match="me/gone is not in outputs/models: `wf pull me/gone` fetches it"):
        named_model("hub:me/gone")
    assert named_model("one") == "one/x.gguf"  # what is there by its path comes first


def test_list_tells_what_serves_each(place: Path, checkpoint: Any) -> None:
    from wf_converter.export import export

    Path("outputs").mkdir()
    arguments = ["--checkpoint", checkpoint("llama-group64"), "--license", "mit"]
    for more in (["--output", "outputs/m.gguf"], ["--format", "hf", "--output", "outputs/packed"]):
        assert run(*arguments, *more, command=export).exit_code == 0
    Path("outputs/broken.gguf").write_bytes(b"GGUF")
    Path("outputs/empty.gguf").touch()
    for age, name in enumerate(("empty", "broken")):
        aged(Path(f"outputs/{name}.gguf"), 1_000_000_000 - age)
    done = run("--json", command=list_command)
    rows = {row["path"]: row for row in json.loads(done.stdout)}
    assert list(rows)[-1] == "outputs/broken.gguf"
    assert rows["outputs/m.gguf"]["served_by"] == ["native", "llamacpp"]
    assert rows["outputs/packed"]["served_by"] == ["native"]
    assert rows["outputs/broken.gguf"]["served_by"] == []
    assert rows["outputs/broken.gguf"]["problem"]
    assert rows["outputs/m.gguf"]["size_bytes"] == Path("outputs/m.gguf").stat().st_size
    weights = next(Path("outputs/packed").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:9])
    table = run(command=list_command)
    assert "native, llamacpp" in table.stdout
    for broken in ("outputs/broken.gguf", "outputs/empty.gguf", "outputs/packed"):
        assert table.stderr.count(broken) == 1, "a damaged one is named once"
    assert f"outputs/packed: {weights.name} is truncated" in table.stderr
