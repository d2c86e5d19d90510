"""URLs, names, what a key is of, which uploads to keep; what needs no server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wf_formats.errors import RequestError
from wf_stores import Keep, complete_names, open_store, parse_location, retain
from wf_stores.layout import Place, check_name, file_key, place_of
from wf_stores.manifest import files_of
from wf_stores.retention import number_of, superfluous

STEPS = [f"step_{number:08d}" for number in (100, 200, 250, 300, 400, 500)]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("gs://bucket", "gs://bucket"),
        ("gs://bucket/", "gs://bucket"),
        ("S3://bucket/a/b c#?%/", "s3://bucket/a/b c#?%"),
        ("/a/../b/", "/b"),
        ("~/x", str(Path.home() / "x")),
    ],
)
def test_places(url: str, shown: str) -> None:
    assert str(parse_location(url)) == shown


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "no place"),
        ("gs://", "names no bucket"),
        ("gs:///x", "names no bucket"),
        ("http://bucket/x", "unknown kind of store"),
        ("s3://bucket//x", "empty part"),
        ("s3://bucket/../x", "empty part, or `.` or `..`"),
        ("s3://bucket/a\nb", "control characters"),
        ("s3://id:secretkey@bucket/x", "credentials do not belong in a URL"),
    ],
)
def test_no_places(url: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        parse_location(url)
    assert "secretkey" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_last_part_is_the_name() -> None:
    store, name = parse_location("gs://bucket/a/b").split()
    assert (str(store), name) == ("gs://bucket/a", "b")
    store, name = parse_location("/a").split()
    assert (str(store), name) == ("/", "a")
    with pytest.raises(RequestError, match="has no name of an upload: add one, such as gs://bucket/run1"):
        parse_location("gs://bucket").split()


@pytest.mark.parametrize("name", ["", "a//b", "..", "a/COMPLETE", "a" * 64, f"x/{'0' * 64}/y", "é" * 128])
def test_no_names(name: str) -> None:
    with pytest.raises(RequestError):
        check_name(name)


def test_every_key_says_what_it_is_of() -> None:
    digest = "0" * 64
    assert place_of("run/step_1/COMPLETE") == Place("run/step_1", None)
    key = file_key("run/step_1", digest, f"COMPLETE/{digest}/COMPLETE")
    assert place_of(key) == Place("run/step_1", digest)
    assert place_of("run/notes.txt") is None
    assert place_of("COMPLETE") is None
    assert place_of(f"{digest}/files/x") is None


@pytest.mark.parametrize("leads_to", [".", "nothing", "link"])
def test_links_elsewhere_are_refused(tmp_path: Path, leads_to: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(leads_to)
    with pytest.raises(RequestError, match="link is a link to"):
        files_of(tmp_path)


def test_which_uploads_are_kept() -> None:
    assert superfluous([*STEPS, "final"], Keep(2)) == STEPS[:4]
    assert superfluous(STEPS[::-1], Keep(1, every=200)) == [STEPS[0], STEPS[2], STEPS[3]]
    assert superfluous(STEPS, Keep(2, best=[STEPS[1]])) == [STEPS[0], STEPS[2], STEPS[3]]
    assert superfluous(["run2/final", "final"], Keep(1)) == []
    assert number_of("run-7/step_00000500.ckpt") == 500
    with pytest.raises(ValueError, match="last=0"):
        Keep(0)


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for step in STEPS:
        store.create(f"run/{step}/COMPLETE", b"")
        store.create(f"run/{step}/below/COMPLETE", b"")
    store.create("other/step_1/COMPLETE", b"")
    assert retain(store, "run", Keep(2), in_use=[f"run/{STEPS[0]}"]) == [f"run/{step}" for step in STEPS[1:4]]
    kept = [name for name in complete_names(store) if not name.endswith("below")]
    assert kept == ["other/step_1", *(f"run/{step}" for step in (STEPS[0], *STEPS[4:]))]


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "STORAGE_EMULATOR_HOST"])
def test_a_server_that_is_none_is_named(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "nonsense")
    with pytest.raises(RequestError, match=f"{variable}=nonsense is no server"):
        open_store("s3://bucket" if variable.startswith("AWS") else "gs://bucket")


def test_libraries_of_clouds_are_imported_when_used(tmp_path: Path) -> None:
    code = (
        "import sys, wf_stores, wf_stores.main; wf_stores.upload_folder, wf_stores.download_folder; "
        f"wf_stores.open_store({str(tmp_path)!r}); "
        "print({'google.cloud.storage', 'obstore', 'google_crc32c'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("command", ["ls", "get", "put", "rm", "check"])
def test_the_help_has_examples(command: str, run: Any) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"wf store {command} " in out


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command line in this process: exit code, stdout, stderr."""
    from wf_stores.main import app

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            app(list(arguments))
        return int(end.value.code or 0), *capsys.readouterr()

    return call


def test_a_folder_through_the_command_line(run: Any, tmp_path: Path, folder: Path) -> None:
    url = f"{tmp_path}/store/runs/step_1"
    assert run("put", str(folder), url)[0] == 0
    assert "0.0 MB of it sent now" in run("put", str(folder), url)[1]
    assert url in run("ls", f"{tmp_path}/store")[1]
    assert '"is_complete": true' in run("ls", url, "--json")[1]
    assert run("check", f"{tmp_path}/store")[1].startswith("good ")
    code, out, _ = run("get", url, str(tmp_path / "target"))
    assert (code, out.startswith(f"{tmp_path}/target: 7 files")) == (0, True)
    assert run("put", str(folder), str(folder / "inside"))[0] == 2
    assert not (folder / "inside").exists()
    damaged = next((tmp_path / "store").rglob("model.safetensors"))
    damaged.write_bytes(b"x")
    code, out, err = run("check", url)
    assert code == 1
    assert "damaged " in out
    assert "1 of 1 uploads are damaged" in err
    assert run("put", str(tmp_path / "target"), f"{tmp_path}/store/runs/step_2")[0] == 0
    assert "step_1" in run("rm", f"{tmp_path}/store/runs", "--keep-last", "1")[1]
    assert run("rm", f"{tmp_path}/store/runs/step_2")[0] == 0
    assert list((tmp_path / "store").rglob("*")) == [tmp_path / "store" / "runs"], "no empty folders are left"
    for arguments in (("ls", url), ("get", url, str(tmp_path / "no")), ("rm", url), ("check", url)):
        code, _, err = run(*arguments)
        assert code == 2
        assert err.startswith("error: there is no")
        assert err.count("\n") == 1


def test_what_was_not_finished_through_the_command_line(run: Any, tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    store.create(file_key("begun", "a" * 64, "file"), b"part")
    assert "begun" in run("ls", str(tmp_path / "store"), "--incomplete")[1]
    assert "--incomplete shows what was not finished" in run("ls", str(tmp_path / "store"))[2]
    assert run("rm", str(tmp_path / "store"), "--incomplete") == (0, "", "")
    assert (
        "of an unfinished" in run("rm", str(tmp_path / "store"), "--incomplete", "--older-than-hours", "0")[1]
    )
    assert list(store.objects("")) == []


@pytest.mark.parametrize("options", ["--keep-every 2", "--older-than-hours 1", "--incomplete --keep-last 1"])
def test_options_that_do_nothing_are_refused(run: Any, tmp_path: Path, options: str) -> None:
    assert run("rm", str(tmp_path / "x"), *options.split())[0] == 2
