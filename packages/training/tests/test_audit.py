"""The audit log: its chain, what a run leaves in it, and what shows."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from wf_formats.errors import RequestError
from wrinklefree.audit.events import audited
from wrinklefree.audit.log import AUDIT_FILE, append, digest, read_trail
from wrinklefree.audit.main import main as audit_main
from wrinklefree.identity import GitState, RunIdentity
from wrinklefree.run_folder import RunFolder
from wrinklefree.stages.base import Outcome

SECRET = "hf_abcdefghijklmnopqrst"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a log with three lines."""
    for number in range(3):
        append(tmp_path, f"event{number}", {"number_of_mine": number})
    return tmp_path


def lines_of(folder: Path) -> list[bytes]:
    return (folder / AUDIT_FILE).read_bytes().splitlines()


def exit_code(*arguments: Any) -> int:
    try:
        return audit_main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


def test_lines_follow_from_each_other(folder: Path) -> None:
    trail = read_trail(folder)
    assert [event["event"] for event in trail.events] == ["event0", "event1", "event2"]
    assert [event["number"] for event in trail.events] == [1, 2, 3]
    assert [event["previous"] for event in trail.events] == [None, *map(digest, trail.lines[:2])]
    assert not list(trail.problems())
    assert stat.S_IMODE((folder / AUDIT_FILE).stat().st_mode) & 0o111 == 0


@pytest.mark.parametrize(
    "tamper",
    [
        lambda lines: [lines[0].replace(b"event0", b"eventX"), *lines[1:]],
        lambda lines: [lines[0], lines[1].replace(b'"number_of_mine": 1', b'"number_of_mine": 7'), lines[2]],
        lambda lines: [lines[0], lines[2]],
        lambda lines: lines[1:],
        lambda lines: [lines[0], lines[2], lines[1]],
        lambda lines: [lines[0], lines[1], lines[1], lines[2]],
        lambda lines: [lines[0], b"", *lines[1:]],
        lambda lines: [lines[0], b"[1]", *lines[1:]],
        lambda lines: [lines[0], b"\xff", *lines[1:]],
        lambda lines: [b"[" * 100_000, *lines],
    ],
)
def test_what_was_changed_shows(
    folder: Path, tamper: Callable[[list[bytes]], list[bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(folder) == 0
    (folder / AUDIT_FILE).write_bytes(b"".join(line + b"\n" for line in tamper(lines_of(folder))))
    assert list(read_trail(folder).problems())
    assert exit_code(folder) == 1
    assert f"error: {folder / AUDIT_FILE}: line " in capsys.readouterr().err


def test_lines_cut_off_at_the_end_show_by_a_hash_kept_elsewhere(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = read_trail(folder).head
    assert exit_code(folder, "--head", head) == 0
    assert f"3 lines, last one {head}" in capsys.readouterr().out
    (folder / "summary.json").write_text(json.dumps({"audit_sha256": head}))
    (folder / AUDIT_FILE).write_bytes(b"".join(line + b"\n" for line in lines_of(folder)[:2]))
    assert not list(read_trail(folder).problems()), "the chain alone does not know"
    assert exit_code(folder) == 1
    assert "summary.json has seen a last line" in capsys.readouterr().err
    (folder / "summary.json").unlink()
    assert exit_code(folder, "--head", head, "--json") == 1
    assert "--head has seen" in json.loads(capsys.readouterr().out)["problems"][0]


def test_what_a_killed_process_left_is_cut_off_and_told(folder: Path) -> None:
    """Wherever in its line it was killed."""
    *whole, last = lines_of(folder)
    before = b"".join(line + b"\n" for line in whole)
    for size in (1, len(last) // 2, len(last)):
        (folder / AUDIT_FILE).write_bytes(before + last[:size])
        assert "is not whole" in list(read_trail(folder).problems())[-1]
        append(folder, "next", {})
        trail = read_trail(folder)
        assert not list(trail.problems())
        assert trail.lines[:2] == whole
        assert trail.events[-1]["cut_off"] == {"bytes": size, "sha256": digest(last[:size])}


def test_a_full_disk_leaves_the_log_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, write = (folder / AUDIT_FILE).read_bytes(), os.write

    def full(descriptor: int, data: bytes) -> int:
        write(descriptor, data[:5])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left") as found:
        append(folder, "next", {})
    assert found.value.filename == str(folder / AUDIT_FILE)
    assert (folder / AUDIT_FILE).read_bytes() == before


def test_something_else_in_its_place_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("keep")
    (tmp_path / AUDIT_FILE).symlink_to(tmp_path / "thesis")
    with pytest.raises((OSError, RequestError)):
        append(tmp_path, "next", {})
    assert (tmp_path / "thesis").read_text() == "keep"


def test_no_log_is_a_wrong_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(tmp_path) == 2
    assert f"{tmp_path}: there is no audit.jsonl" in capsys.readouterr().err


def test_a_removed_log_shows_by_the_summary(cli: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = cli("stage1_subln")
    (run.folder / AUDIT_FILE).unlink()
    assert exit_code(run.folder) == 1
    assert "that is not there" in capsys.readouterr().err


def test_no_further_start_hides_that_lines_were_cut_off(
    cli: Any, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run = cli("stage1_subln")
    log = run.folder / AUDIT_FILE
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))
    assert cli("stage1_subln").code == 0, "complete already"
    assert exit_code(run.folder) == 1
    shutil.rmtree(run.folder / "final")
    assert cli("stage1_subln").code == 0
    assert "the audit log" in caplog.text
    assert exit_code(run.folder) == 1
    assert "before line 2 was added lines were changed or cut off" in capsys.readouterr().err


@pytest.mark.parametrize("head", ["", "12ab", "g" * 64])
def test_what_is_no_hash_is_a_wrong_request(cli: Any, head: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = cli("stage1_subln")
    assert exit_code(run.folder, "--head", head) == 2
    assert "is no SHA-256" in capsys.readouterr().err
    assert exit_code(run.folder, "--head", str(read_trail(run.folder).head).upper()) == 0


def test_a_run_says_who_what_and_with_which_data(cli: Any, text_file: Path) -> None:
    run = cli("stage1_subln")
    assert run.code == 0
    trail = read_trail(run.folder)
    began, ended = trail.events
    stored = json.loads((run.folder / "run.json").read_text())
    assert (began["event"], began["stage"], began["experiment"]) == ("started", "stage1", "default")
    assert began["fingerprint"] == stored["fingerprint"]
    assert began["git"] == stored["git"]
    assert began["contents"].keys() == {"content.model", "content.data.text"}
    assert (began["pid"], began["host"]) == (os.getpid(), os.uname().nodename)
    assert (ended["event"], ended["how"]) == ("ended", "complete")
    assert run.summary["audit_sha256"] == trail.head
    assert exit_code(run.folder) == 0
    assert cli("stage1_subln").code == 0, "complete already"
    assert read_trail(run.folder).lines == trail.lines, "nothing ran"
    assert run.summary["audit_sha256"] == trail.head


def audit(folder: Path, work: Callable[[], Outcome]) -> list[dict[str, Any]]:
    """The lines after `work`, which may fail."""
    config: Any = SimpleNamespace(
        training=SimpleNamespace(stage="stage2"), experiment="x", resume=SimpleNamespace(data=None)
    )
    identity = RunIdentity({"parent": None}, GitState(None, dirty=None), {}, frozenset(), {})
    with suppress(RuntimeError, KeyboardInterrupt):
        audited(RunFolder(folder), config, identity, work)
    return read_trail(folder).events


def test_how_a_run_ended(tmp_path: Path) -> None:
    def fail() -> Outcome:
        raise RuntimeError(f"gs://me:{SECRET}@bucket {SECRET}")

    def interrupt() -> Outcome:
        raise KeyboardInterrupt

    stopped = audit(tmp_path, lambda: Outcome({"steps": 3, "last_loss": float("nan")}, signal=15))[-1]
    assert (stopped["how"], stopped["signal"]) == ("stopped", "SIGTERM")
    assert stopped["figures"] == {"steps": 3, "last_loss": "nan"}
    (tmp_path / "checkpoints" / "step_00000003").mkdir(parents=True)
    *_, resumed, failed = audit(tmp_path, fail)
    assert (resumed["event"], failed["how"]) == ("resumed", "failed")
    assert failed["error"].startswith("RuntimeError: gs://***@bucket ***")
    assert SECRET.encode() not in (tmp_path / AUDIT_FILE).read_bytes()
    assert audit(tmp_path, interrupt)[-1]["how"] == "interrupted"
    assert not list(read_trail(tmp_path).problems())


def test_an_error_goes_on_where_its_line_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> Outcome:
        def no_room(*args: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "write", no_room)
        raise RuntimeError("of the run")

    with caplog.at_level(logging.WARNING):
        events = audit(tmp_path, fail)
    assert [event["event"] for event in events] == ["started"]
    assert "the end of the run is not in its audit log" in caplog.text
