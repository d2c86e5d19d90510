"""`--watch`: what it passes over, when it tries again, and a real one to Ctrl-C and to kill -9."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from shlex import quote

import psutil
import pytest
from typer.testing import Result

from wf_deployer.sync.watch import LONGEST_DELAY_S, Retries, concerns, needs_polling

Mount = namedtuple("Mount", "mountpoint fstype")


def test_tries_are_later_after_each_failure_and_at_once_after_success() -> None:
    time_s = [100.0]
    retries = Retries(lambda: time_s[0])
    assert retries.is_due
    delays = []
    for _ in range(7):
        delays.append(retries.failed())
        assert not retries.is_due
        time_s[0] += delays[-1]
        assert retries.is_due
    assert delays == [2, 4, 8, 16, 32, LONGEST_DELAY_S, LONGEST_DELAY_S]
    retries.succeeded()
    assert not retries.is_due
    retries.request()
    assert retries.is_due
    assert retries.failed() == 2


@pytest.mark.parametrize(
    ("changed", "expected"),
    [("a/b.py", True), ("a", True), ("a/x.log", False), ("ab", False), ("a/b.py/c", False)],
)
def test_batches_count_if_they_touch_a_file_or_its_folder(changed: str, expected: bool) -> None:
    assert concerns([changed], ["a/b.py"]) is expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        *(("/home/me/x", True), ("/home/other", False), ("/homes/me", False), ("/mnt/s/x", True)),
        *(("/net/x", True), ("/local/x", False)),
    ],
)
def test_other_machines_file_systems_are_polled(
    path: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = [
        Mount("/", "ext4"),
        Mount("/home/me", "nfs4"),
        Mount("/home", "xfs"),
        Mount("/mnt/s", "fuse.sshfs"),
        *(Mount("/net", "autofs"), Mount("/net", "9p"), Mount("/local", "nfs4"), Mount("/local", "ext4")),
    ]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)
    assert needs_polling(Path(path)) is expected


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ("max_inotify_watches", "OS file watch limit reached"),
        ("max_inotify_instances", "Too many open files"),
    ],
)
def test_limits_of_inotify_end_a_watch_with_the_fix(
    limit: str, words: str, checkout: Path, tmp_path: Path
) -> None:
    """Limits of a user namespace, so that nobody else feels them."""
    (checkout / ".sync.conf").write_text("[box]\nhost=127.0.0.1\nport=1\n")
    namespace = ["unshare", "--user", "--map-root-user", "sh", "-c"]
    set_limit = f"echo 1 > /proc/sys/user/{limit}; echo 0 > /proc/sys/user/{limit}"
    try:
        subprocess.run([*namespace, set_limit], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"user namespaces are not allowed here: {error}")
    command = f"{set_limit}; exec {quote(sys.executable)} -m wf_deployer.sync.main sync box --watch"
    done = subprocess.run([*namespace, command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert words in done.stderr
    assert "raise fs.inotify.max_user_watches" in done.stderr
    assert done.stderr.count("\n") == 1


def _hears_ctrl_c() -> None:
    """Also where these tests run in the background of a shell, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Watcher:
    """A `gcd sync-ssh box --watch` of its own."""

    def __init__(self, log: Path) -> None:
        self._log = log
        command = [sys.executable, "-m", "wf_deployer.sync.main", "sync-ssh", "box", "--watch"]
        with log.open("w") as stream:
            self.process = subprocess.Popen(command, stdout=stream, stderr=stream, preexec_fn=_hears_ctrl_c)

    @property
    def output(self) -> str:
        return self._log.read_text()

    def wait_for(self, condition: Callable[[], object], timeout_s: float = 20) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline_s, self.output
            time.sleep(0.05)


@pytest.fixture
def watcher(checkout: Path, there: Path, tmp_path: Path) -> Iterator[Watcher]:
    started = Watcher(tmp_path / "watch.log")
    started.wait_for(lambda: "sent 3 files" in started.output)
    yield started
    started.process.kill()
    started.process.wait()


def status(gcd: Callable[..., Result]) -> dict[str, object]:
    found: dict[str, object] = json.loads(gcd("status", "box", "--json").stdout)
    return found


def test_a_watch_sends_changes_is_proved_and_ends_with_ctrl_c(
    watcher: Watcher, checkout: Path, there: Path, gcd: Callable[..., Result], tmp_path: Path
) -> None:
    watcher.wait_for(lambda: status(gcd)["watch_active"])
    assert status(gcd)["watch_pid"] == watcher.process.pid
    (checkout / "a.txt").write_text("changed\n")
    (checkout / "new" / "folder").mkdir(parents=True)
    (checkout / "new" / "folder" / "b\udcff").write_text("b")
    watcher.wait_for(lambda: (there / "new" / "folder" / "b\udcff").exists())
    watcher.wait_for(lambda: (there / "a.txt").read_text() == "changed\n")
    watcher.wait_for(lambda: status(gcd)["in_sync"] and status(gcd)["watch_active"])
    kept = f"nothing to do, a watch (pid {watcher.process.pid}) keeps it in sync"
    watcher.wait_for(lambda: kept in gcd("sync-ssh", "box", "--smart").output)
    assert "another watch" in gcd("sync-ssh", "box", "--watch").output

    shutil.rmtree(there)  # the machine is made anew
    output = gcd("sync-ssh", "box", "--smart").output
    assert "sent 4 files" in output or kept in output  # the watch itself may have seen it first
    assert (there / "a.txt").exists()

    there.rename(there.parent / "away")
    there.write_text("in the way")
    (checkout / "a.txt").write_text("again\n")
    watcher.wait_for(lambda: "not synced: " in watcher.output)
    assert "is a file on that machine; name a folder; next try in 2 s" in watcher.output
    assert "is a file on that machine" in str(status(gcd)["last_error"])
    there.unlink()
    watcher.wait_for(lambda: (there / "a.txt").exists())
    assert (there / "a.txt").read_text() == "again\n"

    watcher.process.send_signal(signal.SIGINT)
    assert watcher.process.wait(timeout=20) == 0
    assert watcher.output.endswith("watch ended\n")
    assert "Traceback" not in watcher.output
    assert status(gcd)["watch_active"] is False
    assert not list((tmp_path / "state").rglob("watch.json"))


def test_a_watch_that_was_killed_or_stopped_is_none(
    watcher: Watcher, gcd: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher.wait_for(lambda: status(gcd)["watch_active"])
    watcher.process.send_signal(signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr("wf_deployer.sync.watch_record.STALE_S", 0.5)
        time.sleep(0.6)
        assert status(gcd)["watch_active"] is False
    watcher.process.kill()
    watcher.process.wait()
    found = status(gcd)
    assert (found["watch_active"], found["watch_pid"]) == (False, None)


def test_a_watch_sends_what_git_lists_anew_and_sigterm_ends_it(
    watcher: Watcher, checkout: Path, there: Path, git: Callable[..., None]
) -> None:
    """An ignored file that is added does not change itself."""
    (checkout / "x.log").write_text("x")
    time.sleep(1)
    assert not (there / "x.log").exists()
    git(checkout, "add", "--force", "x.log")
    watcher.wait_for(lambda: (there / "x.log").exists())
    watcher.process.terminate()
    assert watcher.process.wait(timeout=20) == 0
    assert watcher.output.endswith("watch ended\n")
