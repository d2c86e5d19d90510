"""URLs, names, what a key is of, which uploads to keep; what needs no server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wf_formats.errors import RequestError
from wf_stores import (
    Keep,
    complete_names,
    is_bucket_url,
    open_store,
    parse_location,
    retain,
    upload_folder,
)
from wf_stores.layout import Place, check_name, file_key, place_of
from wf_stores.manifest import files_of
from wf_stores.retention import number_of, superfluous

STEPS = [f"step_{number:08d}" for number in (100, 200, 250, 300, 400, 500)]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("gs://bucket", "gs://bucket"),
        ("gs://bucket/", "gs://bucket"),
        ("s3://bucket/a/b c#?%/", "s3://bucket/a/b c#?%"),
        ("./s3:/bucket", str(Path("s3:/bucket").absolute())),
        ("runs:1/x", str(Path("runs:1/x").absolute())),
        ("s3/bucket", str(Path("s3/bucket").absolute())),
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
        ("file:/bucket/x", "unknown kind of store"),
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


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("s3:/bucket/x", "s3://bucket/x"),
        ("gs:bucket/x", "gs://bucket/x"),
        ("S3://bucket/x", "s3://bucket/x"),
        ("GS:/bucket", "gs://bucket"),
        ("s3a://bucket/x", "s3://bucket/x"),
        ("gcs://bucket/x", "gs://bucket/x"),
        ("s3//bucket/x", "s3://bucket/x"),
        ("s3;//bucket/x", "s3://bucket/x"),
        ("s3:\\\\bucket/x", "s3://bucket/x"),
        (" s3://bucket/x", "s3://bucket/x"),
        ("'gs://bucket/x'", "gs://bucket/x"),
        (Path("s3://bucket/x"), "s3://bucket/x"),
    ],
)
def test_what_is_almost_a_url_is_refused_with_the_one_that_was_meant(text: Any, meant: str) -> None:
    with pytest.raises(RequestError, match=f"is no URL: write {meant}, or ./NAME"):
        parse_location(text)
    assert is_bucket_url(str(text))


def test_a_url_that_is_almost_right_shows_no_password() -> None:
    with pytest.raises(RequestError, match=r"write s3://\*\*\*@bucket/x") as caught:
        parse_location("s3:/id:secretkey@bucket/x")
    assert "secretkey" not in str(caught.value)


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
    assert place_of(f"run/{digest}/manifest.json") == Place("run", digest)
    for foreign in (
        "",
        "/files",
        "/files.txt",
        "/manifest.json/x",
        "/data",
        "/COMPLETE",
        f"/{digest}/files/x",
    ):
        assert place_of(f"run/{digest}{foreign}") is None
    for name in ("", "a//b", "../a", "a/COMPLETE"):
        assert place_of(f"{name}/{digest}/files/x") is None


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
    unrelated = ["run2/final", "final", "llama3", "mine_v2", "mine_v3", "step_2.ckpt", "my_step_1", "step_٣"]
    assert superfluous(unrelated, Keep(1)) == []
    assert number_of("run-7/step_00000500") == 500
    with pytest.raises(ValueError, match="last=0"):
        Keep(0)


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    source, store = tmp_path / "source", open_store(tmp_path / "store")
    source.mkdir()
    (source / "file").write_text("x")
    below = [f"run/{step}/below" for step in STEPS]
    for name in (*(f"run/{step}" for step in STEPS), *below, "other/step_1", "run/mine_v2", "run/mine_v3"):
        upload_folder(source, store, name)
    assert retain(store, "run", Keep(2), in_use=[f"run/{STEPS[0]}"]) == [f"run/{step}" for step in STEPS[1:4]]
    kept = [name for name in complete_names(store) if name not in below]
    assert kept == [
        *("other/step_1", "run/mine_v2", "run/mine_v3"),
        *(f"run/{step}" for step in (STEPS[0], *STEPS[4:])),
    ]


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


def test_get_if_there_takes_only_the_stores_own_no_for_an_answer(
    run: Any, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, target = f"{tmp_path}/store/step_1", tmp_path / "target"
    assert run("get", url, str(target))[0] == 2
    code, out, _ = run("get", url, str(target), "--if-there")
    assert (code, out) == (
        0,
        f"there is nothing at {url}; wf store ls shows what there is; nothing was written\n",
    )
    assert not target.exists()
    monkeypatch.setenv("AWS_PROFILE", "none")
    assert run("get", "s3://bucket/step_1", str(target), "--if-there")[0] == 2
    run("put", str(folder), url)
    assert run("get", url, str(target), "--if-there")[0] == 0
    (target / "notes.txt").write_text("mine")
    code, _, err = run("get", url, str(target), "--if-there")
    assert (code, "notes.txt in it is not of" in err) == (2, True)


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


def test_what_was_not_finished_through_the_command_line(
    run: Any, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path / "store")
    with monkeypatch.context() as patch:
        patch.setattr("wf_stores.uploading.mark_complete", lambda *_: None)
        upload_folder(folder, store, "begun")
    store.create(f"begun/{'a' * 64}", b"a blob of a cache")
    assert "begun" in run("ls", str(tmp_path / "store"), "--incomplete")[1]
    assert "--incomplete shows what was not finished" in run("ls", str(tmp_path / "store"))[2]
    assert run("rm", str(tmp_path / "store"), "--incomplete") == (0, "", "")
    now = ("rm", str(tmp_path / "store"), "--incomplete", "--older-than-hours", "0")
    assert run(*now)[1] == f"removed 0.1 MB of an unfinished {tmp_path}/store/begun\n"
    assert run(*now) == (0, "", "")
    assert [stored.key for stored in store.objects("")] == [f"begun/{'a' * 64}"]


def test_unrelated_uploads_are_not_pruned_through_the_command_line(
    run: Any, tmp_path: Path, folder: Path
) -> None:
    for name in ("llama3", "mine_v2", "mine_v3"):
        upload_folder(folder, open_store(tmp_path / "store"), name)
    code, out, err = run("rm", str(tmp_path / "store"), "--keep-last", "1")
    assert (code, out) == (2, "")
    assert "there is no complete upload called step_NUMBER right below" in err
    assert len(complete_names(open_store(tmp_path / "store"))) == 3
    assert "step_NUMBER" in run("rm", "--help")[1]


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to nothing"])
def test_what_is_no_file_in_the_place_of_one_is_named(
    run: Any, tmp_path: Path, folder: Path, kind: str
) -> None:
    (tmp_path / "store" / "one").mkdir(parents=True)
    place = tmp_path / "store" / "one" / "COMPLETE"
    {"pipe": os.mkfifo, "folder": os.mkdir, "link to nothing": lambda path: path.symlink_to("x")}[kind](place)
    code, _, err = run("put", str(folder), str(tmp_path / "store" / "one"))
    assert code == 2
    assert err == f"error: {place} is no regular file, and what is stored is; move it away\n"
    assert run("ls", str(tmp_path / "store"))[0] == 2


def test_urls_with_a_typo_make_no_folders(
    run: Any, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    upload_folder(folder, open_store(tmp_path / "store"), "one")
    before = sorted(path.name for path in tmp_path.iterdir())
    for arguments in (
        ("put", str(folder), "s3:/bucket/x"),
        ("get", "gs:bucket/x", "target"),
        ("get", "store/one", "s3://bucket/x"),
        ("ls", "S3://bucket"),
        ("rm", "s3:bucket/x"),
        ("check", "gs:/bucket/x"),
    ):
        code, _, err = run(*arguments)
        assert (code, err.count("\n")) == (2, 1)
        assert "s3://bucket" in err or "gs://bucket" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    code, _, err = run("get", "store/one", "/")
    assert (code, err) == (2, "error: / is the top of the file system; give a path with a name of its own\n")


@pytest.mark.parametrize("options", ["--keep-every 2", "--older-than-hours 1", "--incomplete --keep-last 1"])
def test_options_that_do_nothing_are_refused(run: Any, tmp_path: Path, options: str) -> None:
    assert run("rm", str(tmp_path / "x"), *options.split())[0] == 2
