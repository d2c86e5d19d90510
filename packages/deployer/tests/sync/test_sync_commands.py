"""The command lines of ssh and rsync, and rsync itself into a local folder."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from wf_deployer.errors import CommandError, CommandRequestError
from wf_deployer.sync.children import child
from wf_deployer.sync.config import Preset
from wf_deployer.sync.rsync import RsyncOptions, file_list, rsync_command
from wf_deployer.sync.ssh import control_folder, control_path, lost, quoted, rsync_host, ssh_options
from wf_formats.errors import RequestError


def need_rsync() -> None:
    if shutil.which("rsync") is None:
        pytest.skip("rsync is not installed")


def copy(source: Path, target: Path, names: list[bytes]) -> None:
    target.mkdir(exist_ok=True)
    paths = [name.decode("utf-8", "surrogateescape") for name in names]
    command = rsync_command(source, str(target), RsyncOptions())
    subprocess.run(command, input=file_list(paths), check=True, capture_output=True)


def test_rsync_takes_names_of_all_kinds_as_they_are(tmp_path: Path) -> None:
    need_rsync()
    names = [
        b"--delete",
        b"-v",
        b"#x",
        b";y",
        b"new\nline",
        b"sp ace",
        b"\xff\xfe",
        b"a*",
        b"[b]",
        b"\\c",
        b"d/e",
    ]
    source = tmp_path / "from: here"
    (source / "d").mkdir(parents=True)
    for name in names:
        (source / os.fsdecode(name)).write_bytes(name)
    (source / "not listed").touch()
    copy(source, tmp_path / "to", names)
    found = {os.fsencode(path.relative_to(tmp_path / "to")) for path in (tmp_path / "to").rglob("*")}
    assert found == {*names, b"d"}


def test_rsync_sends_what_it_is_told_whatever_time_and_size_say(tmp_path: Path) -> None:
    need_rsync()
    for name, content in (("from", "new"), ("to", "old")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(content)
        os.utime(tmp_path / name / "x", (1, 1))
    copy(tmp_path / "from", tmp_path / "to", [b"x"])
    assert (tmp_path / "to" / "x").read_text() == "new"


def test_rsync_keeps_links_and_executable_bits_and_writes_through_no_link(tmp_path: Path) -> None:
    need_rsync()
    source, target, outside = tmp_path / "from", tmp_path / "to", tmp_path / "outside"
    for folder in (source, source / "d", target, outside):
        folder.mkdir()
    (source / "run").touch(mode=0o755)
    (source / "l").symlink_to(outside)
    (source / "d" / "x").touch()
    (target / "d").symlink_to(outside)
    copy(source, target, [b"run", b"l", b"d/x"])
    assert os.access(target / "run", os.X_OK)
    assert (target / "l").is_symlink()
    assert (target / "d" / "x").is_file()
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("rate", ["500", "2M", "1.5m", "10k"])
def test_rates(rate: str) -> None:
    assert RsyncOptions(rate).words == [f"--bwlimit={rate}"]


@pytest.mark.parametrize("rate", ["", "-1", "fast", "5 M", "5MB/s", "--rsh=x"])
def test_rates_that_are_none(rate: str) -> None:
    with pytest.raises(RequestError, match="is not a rate; write 500"):
        RsyncOptions(rate)


def test_partial_folder_and_progress() -> None:
    command = rsync_command(Path("/x"), "box:/there", RsyncOptions(progress=True), "ssh")
    assert "--partial-dir=.wf-sync-partial" in command
    assert "--info=progress2" in command
    assert command[-3:] == ["--", "/x/", "box:/there/"]


def test_ssh_shares_a_connection_and_asks_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = " ".join(ssh_options(Preset("box", "box", "x", 2222, Path("/keys/my key"))))
    for option in ("BatchMode=yes", "ControlMaster=auto", "ControlPersist=30", "-p 2222", "-i /keys/my key"):
        assert option in words
    assert "IdentitiesOnly=yes" in words
    assert "-p" not in ssh_options(Preset("box", "box", "x"))


def test_control_paths_are_short_and_of_one_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("long" * 20)))
    path = control_path(Preset("box", "box", "x", key=Path("/a")))
    assert path.name.endswith("-%C")
    assert len(str(path)) - len("%C") + 40 + 17 < 100
    assert path != control_path(Preset("box", "box", "x", key=Path("/b")))


def test_a_control_folder_of_somebody_else_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    short = Path("/tmp") / f"wf{os.getpid()}"
    short.mkdir()
    try:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
        folder = control_folder()
        assert folder.parent == short
        folder.chmod(0o755)
        with pytest.raises(CommandError, match="is not a folder of yours alone"):
            control_folder()
        folder.rmdir()
        (tmp_path / "else").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "else")
        with pytest.raises(CommandError, match="is not a folder of yours alone"):
            control_folder()
    finally:
        shutil.rmtree(short)


def test_addresses_for_rsync() -> None:
    assert rsync_host("me@box") == "me@box"
    assert rsync_host("me@fe80::1%eth0") == "me@[fe80::1%eth0]"
    assert rsync_host("::1") == "[::1]"


def test_rsync_splits_our_quotes_back(tmp_path: Path) -> None:
    """A shell of ours that writes down its arguments, as rsync hands them over."""
    need_rsync()
    spy = tmp_path / "it's a spy"
    spy.write_text(f'#!/bin/sh\nfor word; do echo "$word"; done > "{tmp_path}/words"\nexit 1\n')
    spy.chmod(0o755)
    words = ["a b", "it's", "''", '"x"', "$y"]
    command = rsync_command(tmp_path, "box:/x", RsyncOptions(), quoted([str(spy), *words]))
    subprocess.run(command, input=b"", capture_output=True, check=False)
    assert (tmp_path / "words").read_text().splitlines()[: len(words)] == words


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            [
                "ssh: connect to host box port 22: Connection refused",
                "rsync: connection unexpectedly closed",
                "",
            ],
            "box (box:x): ssh: connect to host box port 22: Connection refused; check host and port",
        ),
        (["me@box: Permission denied (publickey)."], "Permission denied (publickey).; check user and key"),
        (["@@@ WARNING @@@", "Host key verification failed."], "failed.; connect once by hand, `ssh box`"),
        (["evil \x1b[2J"], "evil \\x1b[2J"),
        (
            ["rsync: [sender] write error: Broken pipe (32)"],
            "the connection was lost; ssh gives no reason; nothing",
        ),
    ],
)
def test_a_lost_connection_is_one_line_with_ssh_s_reason(lines: list[str], message: str) -> None:
    error = str(lost(Preset("box", "box", "x"), lines))
    assert message in error
    assert "\n" not in error


def test_a_program_that_is_missing_is_named() -> None:
    with pytest.raises(CommandRequestError, match="no-such-program is not installed here"):
        child(["no-such-program"], None).__enter__()


def test_a_child_does_not_outlive_an_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt), child(["sleep", "60"], None) as process:
        raise KeyboardInterrupt
    assert process.poll() is not None
