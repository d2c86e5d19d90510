"""`gcd` against a real sshd: what arrives, what stays, what is skipped, and what is said when it fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import Result

from wf_deployer.sync.remote_program import RECORD

Gcd = Callable[..., Result]


def ok(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.output


def status(gcd: Gcd) -> dict[str, object]:
    found: dict[str, object] = json.loads(gcd("status", "box", "--json").stdout)
    return found


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != RECORD)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_dry_run_changes_nothing_anywhere(checkout: Path, there: Path, gcd: Gcd, tmp_path: Path) -> None:
    said = ok(gcd("sync-ssh", "box", "--dry-run"))
    for line in ("send: .gitignore\n", "send: a.txt\n", "send: tools/run\n", "would send 3 files (18 B)"):
        assert line in said
    assert not there.exists()
    assert not (tmp_path / "state").exists()


def test_files_arrive_and_strangers_stay(
    checkout: Path, there: Path, gcd: Gcd, git: Callable[..., None]
) -> None:
    names = [b"-rf", b"new\nline", b"\xff\xfe", b"$(touch x)", b"#c"]
    for name in names:
        (checkout / os.fsdecode(name)).write_bytes(name)
    (checkout / "l").symlink_to("/etc")
    (checkout / ".env").write_text("secret")
    (checkout / "x.log").write_text("ignored")
    git(checkout, "add", "--force", ".env")
    assert "left out (.env, secrets are never sent): .env" in ok(gcd("sync", "box", "--dry-run"))
    there.mkdir()
    (there / "result.json").write_text("{}")
    said = ok(gcd("sync", "box"))
    assert "left out (.env, secrets are never sent): .env" in said
    assert tree(there).keys() == {"result.json", ".gitignore", "a.txt", "tools/run", *map(os.fsdecode, names)}
    assert os.readlink(there / "l") == "/etc"
    assert os.access(there / "tools" / "run", os.X_OK)
    assert not os.access(there / "a.txt", os.X_OK)


def test_smart_skips_only_what_is_the_same_on_the_same_machine(
    checkout: Path, there: Path, gcd: Gcd, tmp_path: Path
) -> None:
    skipped = "nothing changed since the last sync"
    assert "sent 3 files" in ok(gcd("sync-ssh", "box", "--smart"))
    assert skipped in ok(gcd("sync-ssh", "box", "--smart"))
    (checkout / "tools" / "run").chmod(0o644)
    assert "sent 1 file " in ok(gcd("sync-ssh", "box", "--smart"))
    (there / "a.txt").write_text("changed there\n")
    assert "sent 1 file " in ok(gcd("sync-ssh", "box", "--smart"))
    assert (there / "a.txt").read_text() == "a\n"
    shutil.rmtree(there)
    assert "sent 3 files" in ok(gcd("sync-ssh", "box", "--smart"))
    (there / RECORD).unlink()
    assert "sent 0 files" in ok(gcd("sync-ssh", "box", "--smart"))
    assert skipped in ok(gcd("sync-ssh", "box", "--smart"))


def test_status_compares_file_by_file_and_changes_nothing(
    checkout: Path, there: Path, gcd: Gcd, tmp_path: Path
) -> None:
    before = status(gcd)
    assert not there.exists()
    assert not (tmp_path / "state").exists()
    assert before | {"files_checksum": ""} == {
        "schema_version": 1,
        "preset": "box",
        "host": "127.0.0.1",
        "dir": "there",
        "files": 3,
        "files_checksum": "",
        "remote_checksum": None,
        "in_sync": False,
        "watch_active": False,
        "watch_pid": None,
        "last_sync": None,
        "last_error": None,
    }
    ok(gcd("sync", "box"))
    after = status(gcd)
    assert after["in_sync"] is True
    assert after["remote_checksum"] == after["files_checksum"] == before["files_checksum"]
    assert (
        abs(time.time() - time.mktime(time.strptime(str(after["last_sync"]), "%Y-%m-%dT%H:%M:%SZ"))) < 90000
    )
    (there / "a.txt").write_text("changed there")
    assert status(gcd)["in_sync"] is False
    table = ok(gcd("status"))
    assert [word in table for word in ("box", "127.0.0.1:there", " no ")] == [True] * 3


def test_delete_takes_only_our_unchanged_files(checkout: Path, there: Path, gcd: Gcd) -> None:
    for name in ("gone", "folder/gone", "changed", "b", "c", "d"):
        (checkout / name).parent.mkdir(exist_ok=True)
        (checkout / name).write_text(name)
    ok(gcd("sync", "box"))
    (there / "result.json").write_text("{}")
    (there / "changed").write_text("changed there")
    for name in ("gone", "folder/gone", "changed"):
        (checkout / name).unlink()
    (checkout / ".gitignore").write_text("*.log\nb\n")  # ignored now, but not gone
    ok(gcd("sync", "box"))
    assert (there / "gone").exists()
    plan = ok(gcd("sync", "box", "--delete", "--dry-run"))
    assert "delete: folder/gone\n" in plan
    assert "keep, changed there: changed\n" in plan
    assert (there / "gone").exists()
    assert "kept 1 that were changed there" in ok(gcd("sync", "box", "--delete"))
    left = {"result.json", "changed", "b", "c", "d", ".gitignore", "a.txt", "tools/run"}
    assert tree(there).keys() == left
    assert not (there / "folder").exists()


def test_half_of_the_files_and_an_empty_source_need_force(checkout: Path, there: Path, gcd: Gcd) -> None:
    ok(gcd("sync", "box"))
    (there / "result.json").write_text("{}")
    for path in (checkout / ".gitignore", checkout / "tools" / "run"):
        path.unlink()
    refused = gcd("sync", "box", "--delete")
    assert refused.exit_code == 2
    assert "2 of 3 files that were sent would be deleted" in refused.output
    (checkout / "a.txt").unlink()
    for arguments in ((), ("--delete",)):
        empty = gcd("sync", "box", *arguments)
        assert empty.exit_code == 2
        assert "there is no file to send" in empty.output
    assert len(tree(there)) == 4
    ok(gcd("sync", "box", "--delete", "--force"))
    assert tree(there).keys() == {"result.json"}


def test_a_rebuilt_machine_loses_nothing(checkout: Path, there: Path, gcd: Gcd) -> None:
    """A file that is like one that we sent once, on a machine that never got it from us."""
    (checkout / "gone").write_text("gone")
    ok(gcd("sync", "box"))
    shutil.rmtree(there)
    there.mkdir()
    (there / "gone").write_text("gone")
    (checkout / "gone").unlink()
    ok(gcd("sync", "box", "--delete"))
    assert (there / "gone").exists()


def test_a_folder_becomes_a_file(checkout: Path, there: Path, gcd: Gcd) -> None:
    ok(gcd("sync", "box"))
    shutil.rmtree(checkout / "tools")
    (checkout / "tools").write_text("a file now")
    blocked = gcd("sync", "box")
    assert blocked.exit_code == 1
    assert blocked.output.strip().count("\n") == 0
    assert "tools" in blocked.output
    ok(gcd("sync", "box", "--delete"))
    assert (there / "tools").read_text() == "a file now"


def test_what_is_in_the_way_there_is_neither_followed_nor_replaced(
    checkout: Path, there: Path, gcd: Gcd, tmp_path: Path
) -> None:
    """rsync would put a folder in the place of a link, or of a file, without a word."""
    data = there.parent / "data"
    data.mkdir()
    (data / "mine").write_text("mine")
    there.mkdir()
    (there / "tools").symlink_to(data)
    for arguments in (("--dry-run",), (), ("--smart",), ("--delete",)):
        refused = gcd("sync", "box", *arguments)
        assert refused.exit_code == 2
        assert f"tools is a link to {data} on that machine, and tools/run belongs below it" in refused.output
        assert "; remove or rename it there\n" in refused.output
    assert [path.name for path in there.iterdir()] == ["tools"]
    assert [path.name for path in data.iterdir()] == ["mine"]
    (there / "tools").unlink()
    (there / "tools").write_text("result")
    assert "tools is a file on that machine" in gcd("sync", "box").output
    assert (there / "tools").read_text() == "result"
    (there / "tools").unlink()
    ok(gcd("sync", "box"))
    assert tree(there).keys() == {".gitignore", "a.txt", "tools/run"}


def test_a_link_that_was_sent_and_is_a_folder_now_goes_with_delete_alone(
    checkout: Path, there: Path, gcd: Gcd
) -> None:
    (checkout / "l").symlink_to("tools")
    ok(gcd("sync", "box"))
    (checkout / "l").unlink()
    (checkout / "l").mkdir()
    (checkout / "l" / "new").write_text("new")
    refused = gcd("sync", "box")
    assert refused.exit_code == 2
    assert "l is a link to tools on that machine" in refused.output
    assert "use --delete: it was sent from here, and goes if it is unchanged" in refused.output
    assert (there / "l").is_symlink()
    assert "delete: l\n" in ok(gcd("sync", "box", "--delete", "--dry-run"))
    ok(gcd("sync", "box", "--delete"))
    assert (there / "l" / "new").read_text() == "new"
    assert sorted(path.name for path in (there / "tools").iterdir()) == ["run"]


def test_a_link_that_comes_into_the_way_after_the_look_is_told(
    checkout: Path, there: Path, gcd: Gcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wf_deployer.sync import sync_run

    def make_plan_late(*arguments: Any) -> Any:
        there.mkdir()
        (there / "tools").symlink_to("/etc")
        return original(*arguments)

    original = sync_run.make_plan
    monkeypatch.setattr(sync_run, "make_plan", make_plan_late)
    blocked = gcd("sync", "box")
    assert blocked.exit_code == 1
    assert "tools is a link to /etc on that machine" in blocked.output
    assert (there / "tools").is_symlink()


def test_path_fix_and_uv_sync_where_its_files_changed(
    checkout: Path, there: Path, gcd: Gcd, sshd: Any
) -> None:
    config = checkout / ".sync.conf"
    config.write_text(
        "[project]\nuv_projects=. tools\npath_fix=pyproject.toml:/home/me=>/data\n" + config.read_text()
    )
    (checkout / "pyproject.toml").write_text('path = "/home/me/libs"\n')
    (checkout / "tools" / "pyproject.toml").touch()
    home = there.parent
    assert "uv sync" not in ok(gcd("sync", "box", "--skip-deps"))
    assert (there / "pyproject.toml").read_text() == 'path = "/data/libs"\n'
    (home / "uv-exit").write_text("3")
    failed = gcd("sync-ssh", "box", "--smart")
    assert failed.exit_code == 1
    assert "fake uv sync in " in failed.output
    assert "uv sync failed in . on " in failed.output
    assert "exit code 3" in str(status(gcd)["last_error"])
    assert "box: last error: uv sync failed in . on " in ok(gcd("status"))
    (home / "uv-exit").write_text("0")
    assert ok(gcd("sync-ssh", "box", "--smart")).count("fake uv sync in ") == 2
    assert status(gcd)["last_error"] is None
    (checkout / "a.txt").write_text("no matter for uv")
    assert "uv sync" not in ok(gcd("sync-ssh", "box"))
    (checkout / "tools" / "pyproject.toml").write_text("# changed")
    assert ok(gcd("sync-ssh", "box", "--smart")).count("fake uv sync in ") == 2  # a member of "." too
    assert len((home / "uv-runs").read_text().split()) == 5


def test_folders_and_keys_with_shell_characters(
    checkout: Path, there: Path, gcd: Gcd, tmp_path: Path
) -> None:
    """The fixture's key has a space in its name, its folder an apostrophe."""
    config = checkout / ".sync.conf"
    name = "-a b;(x)*[1]'\"&|<>\\!~#%C"
    config.write_text(config.read_text().replace("dir=there", f"dir=~/{name}/deep"))
    ok(gcd("sync", "box"))
    assert tree(there.parent / name / "deep").keys() == {".gitignore", "a.txt", "tools/run"}
    assert status(gcd)["in_sync"] is True


def test_a_connection_lost_while_sending_is_one_line(
    checkout: Path, there: Path, gcd: Gcd, sshd: Any
) -> None:
    (checkout / "large").write_bytes(os.urandom(3_000_000))
    command = [sys.executable, "-m", "wf_deployer.sync.main", "sync", "box", "--bwlimit", "300"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        arriving(there)
        for connection in psutil.Process(sshd.pid).children(recursive=True):
            connection.kill()
        _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert said.startswith("error: box (127.0.0.1:there")
    assert said.count("\n") == 1
    ok(gcd("sync-ssh", "box", "--smart"))
    assert (there / "large").read_bytes() == (checkout / "large").read_bytes()


def arriving(there: Path) -> None:
    """Waits until the file `large` is half there."""
    deadline_s = time.monotonic() + 20
    while not list(there.glob(".large.*")):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_a_killed_sync_is_completed_by_the_next(checkout: Path, there: Path, gcd: Gcd) -> None:
    (checkout / "large").write_bytes(os.urandom(3_000_000))
    command = [sys.executable, "-m", "wf_deployer.sync.main", "sync", "box", "--bwlimit", "300"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        arriving(there)
        os.killpg(process.pid, signal.SIGKILL)
    assert not (there / "large").exists()
    assert json.loads((there / RECORD).read_text())["nonce"] is None
    assert "sent " in ok(gcd("sync-ssh", "box", "--smart"))
    assert (there / "large").read_bytes() == (checkout / "large").read_bytes()
    assert status(gcd)["in_sync"] is True
    (checkout / "large").unlink()
    ok(gcd("sync", "box", "--delete"))
    assert tree(there).keys() == {".gitignore", "a.txt", "tools/run"}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("port=", "port=1#", "Connection refused; check host and port"),
        ("key=", "key={key}#", "; check user and key; try `ssh 127.0.0.1`"),
        ("host=127.0.0.1", "host=localhost", "Host key verification failed.; connect once by hand"),
        ("dir=there", "dir=/", "is the root of that machine"),
    ],
)
def test_what_fails_is_one_line(
    old: str, new: str, words: str, checkout: Path, there: Path, gcd: Gcd, tmp_path: Path
) -> None:
    key = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    lines = (checkout / ".sync.conf").read_text().splitlines()
    changed = [new.format(key=key).rstrip("#") if line.startswith(old) else line for line in lines]
    (checkout / ".sync.conf").write_text("\n".join(changed))
    result = gcd("sync", "box")
    assert result.exit_code == 1
    assert words in result.output
    assert result.output.count("\n") == 1
    result = gcd("status", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert (found["in_sync"], found["remote_checksum"]) == (None, None)
    assert words in found["last_error"]


def test_missing_programs_there_are_named(
    checkout: Path, there: Path, gcd: Gcd, sshd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wf_deployer.sync.remote._BOOTSTRAP", "import sys;sys.exit(127)")
    assert "has no python3; install it there" in gcd("sync", "box").output
    for noise in ("1", "{}", "[]", "\\x1b[2J"):
        monkeypatch.setattr("wf_deployer.sync.remote._BOOTSTRAP", f'print("{noise}")')
        said = gcd("sync", "box").output
        assert "silence its start files" in said
        assert "\x1b" not in said


def test_a_file_that_changes_while_it_is_sent_is_told(
    checkout: Path, there: Path, gcd: Gcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wf_deployer.sync import sync_run

    def send_late(*arguments: object, **named: object) -> None:
        (checkout / "a.txt").write_text("newer\n")
        original(*arguments, **named)  # type: ignore[arg-type]

    original = sync_run.send
    monkeypatch.setattr(sync_run, "send", send_late)
    result = gcd("sync", "box")
    assert result.exit_code == 1
    assert "a.txt changed while being sent" in result.output
    monkeypatch.undo()
