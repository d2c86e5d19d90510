"""What is remembered, the lock, and the proof of a watch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from wf_deployer.errors import CommandError
from wf_deployer.sync import state as state_module
from wf_deployer.sync.config import Preset
from wf_deployer.sync.state import State, StateFolder
from wf_deployer.sync.watch_record import STALE_S, active_watch, watching

PRESET = Preset("box", "box", "there")


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateFolder:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(state_module, "LOCK_WAIT_S", 0.2)
    return StateFolder(PRESET, tmp_path)


def test_a_state_is_of_host_port_dir_and_checkout(target: StateFolder, tmp_path: Path) -> None:
    others = [
        StateFolder(replace(PRESET, host="other"), tmp_path),
        StateFolder(replace(PRESET, port=23), tmp_path),
        StateFolder(replace(PRESET, dir="else"), tmp_path),
        StateFolder(PRESET, tmp_path.parent),
    ]
    assert len({target.folder, *(other.folder for other in others)}) == 5
    assert StateFolder(replace(PRESET, name="renamed"), tmp_path).folder == target.folder


def test_it_is_read_as_it_was_written(target: StateFolder) -> None:
    assert target.read() == State()
    assert not target.folder.exists()
    written = State("n", "c", 1.5, None, {"a\udcff\n": ["f1", "f2"]})
    with target.locked(print):
        target.write(written)
    assert target.read() == written
    assert target.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "change",
    [{"sent": []}, {"sent": {"a": "f1"}}, {"nonce": 1}, {"format": 2}, {"extra": 1}, {"last_sync_s": "now"}],
)
def test_a_damaged_state_is_told(target: StateFolder, change: dict[str, object]) -> None:
    with target.locked(print):
        target.write(State())
    path = target.folder / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CommandError, match="remove it"):
        target.read()


HOLDER = """
import sys, time
from pathlib import Path
from wf_deployer.sync.config import Preset
from wf_deployer.sync.state import StateFolder
with StateFolder(Preset("box", "box", "there"), Path(sys.argv[1])).locked(print) as lock:
    print("held", flush=True)
    {then}
"""


def test_a_live_holder_keeps_others_off_and_a_killed_one_does_not(
    target: StateFolder, tmp_path: Path
) -> None:
    source = HOLDER.format(then="time.sleep(60)")
    with subprocess.Popen([sys.executable, "-c", source, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(
            CommandError, match=rf"another sync to box:there is on its way \(pid {holder.pid};"
        ):
            target.locked(print).__enter__()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with target.locked(print):
            pass


def test_the_rsync_of_a_killed_sync_keeps_the_lock(target: StateFolder, tmp_path: Path) -> None:
    start = "import subprocess; p = subprocess.Popen(['sleep', '60'], pass_fds=[lock])"
    then = f"{start}; print(p.pid, flush=True); p.wait()"
    source = HOLDER.format(then=then)
    with subprocess.Popen([sys.executable, "-c", source, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        child = int(holder.stdout.readline())
        holder.kill()
        holder.wait()
        with pytest.raises(CommandError, match="was ended, but its rsync still sends"):
            target.locked(print).__enter__()
        os.kill(child, signal.SIGKILL)
        deadline_s = time.monotonic() + 5
        while time.monotonic() < deadline_s:
            try:
                with target.locked(print):
                    return
            except CommandError:
                continue
        pytest.fail("the lock was not freed")


def test_a_watch_is_proved_from_its_first_sync_to_its_end(target: StateFolder) -> None:
    assert active_watch(target) is None
    with watching(target) as heart:
        assert active_watch(target) is None
        heart.succeeded()
        found = active_watch(target)
        assert found is not None
        assert found.pid == os.getpid()
        heart.failed("no connection")
        failing = active_watch(target)
        assert failing is not None
        assert failing.last_error == "no connection"
    assert active_watch(target) is None
    assert not (target.folder / "watch.json").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record | {"token": "0" * 32},
        lambda record: record | {"pid": 1},
        lambda record: record | {"start_ticks": record["start_ticks"] + 1},
        lambda record: record | {"boot_id": "another"},
        lambda record: record | {"heartbeat_s": record["heartbeat_s"] - STALE_S - 1},
        lambda record: record | {"heartbeat_s": record["heartbeat_s"] + STALE_S + 60},
        lambda record: record | {"last_sync_s": -1.0},
        lambda record: {"pid": record["pid"]},
        lambda record: [],
    ],
)
def test_a_record_that_does_not_fit_proves_nothing(
    target: StateFolder, change: Callable[[dict[str, object]], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    with watching(target) as heart:
        heart.succeeded()
        assert active_watch(target) is not None
        path = target.folder / "watch.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
        assert active_watch(target) is None


def test_what_a_killed_watch_left_proves_nothing(target: StateFolder) -> None:
    """Even if its pid, start and time fit: nobody holds its lock."""
    with watching(target) as heart:
        heart.succeeded()
        left = {name: (target.folder / name).read_bytes() for name in ("watch.json", "watch.lock")}
    for name, content in left.items():
        (target.folder / name).write_bytes(content)
    assert active_watch(target) is None


def test_a_second_watch_is_refused(target: StateFolder) -> None:
    with watching(target) as heart:
        heart.succeeded()
        with pytest.raises(CommandError, match=rf"another watch \(pid {os.getpid()}\) sends to box:there"):
            watching(target).__enter__()
        assert active_watch(target) is not None


def test_a_heartbeat_that_cannot_be_written_is_kept_as_error(
    target: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with watching(target) as heart:
        monkeypatch.setattr("wf_deployer.sync.watch_record.atomic_write_json", full)
        heart.succeeded()
        assert heart.error is not None
        monkeypatch.undo()
        heart.succeeded()
        assert heart.error is None
