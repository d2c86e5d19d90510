"""Proof that a watch is at work: `watch.json` says who, `watch.lock` is held by that process while it lives.

A watch counts as active only if all of it fits: the lock is held, its token is that of watch.json, the
process of that pid began in this boot at that clock tick, the last heartbeat is young, and it has synced
once. What was left by a watch that was killed or stopped (SIGSTOP) proves nothing.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from wf_deployer.backends.fields import from_json
from wf_deployer.backends.local.identity import ProcessIdentity, identify, is_alive
from wf_deployer.errors import CommandError
from wf_deployer.sync.state import StateFolder, write_lock
from wf_formats.atomic import atomic_write_json
from wf_formats.json_file import read_value
from wf_formats.locks import try_lock

HEARTBEAT_S = 5.0
STALE_S = 20.0


@dataclass(frozen=True)
class WatchRecord:
    """Who watches.

    Attributes:
        start_ticks, boot_id: See `ProcessIdentity`.
        token: Random; that of the lock's holder.
        last_sync_s: The last sync that succeeded; -1 before the first.
        last_error: Of the last sync; empty if it succeeded.
    """

    pid: int
    start_ticks: int
    boot_id: str
    token: str
    heartbeat_s: float
    last_sync_s: float = -1.0
    last_error: str = ""

    @property
    def process(self) -> ProcessIdentity:
        return ProcessIdentity(self.pid, self.start_ticks, self.boot_id)


def active_watch(target: StateFolder) -> WatchRecord | None:
    """The proved watch of a target; None if there is none, or nothing proves it."""
    path = target.folder / "watch.json"
    try:
        record = from_json(WatchRecord, read_value(path, CommandError), path)
    except CommandError:
        return None
    is_proved = (
        _held_token(target.folder / "watch.lock") == record.token
        and is_alive(record.process)
        and abs(time.time() - record.heartbeat_s) < STALE_S
        and record.last_sync_s >= 0
    )
    return record if is_proved else None


def _held_token(path: Path) -> str | None:
    """What the holder wrote into its lock; None if nobody holds it."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        is_free = try_lock(descriptor, is_shared=True)
        return None if is_free else os.read(descriptor, 100).decode(errors="replace")
    finally:
        os.close(descriptor)


class Heart:
    """Writes the record every few seconds, from a thread of its own."""

    def __init__(self, path: Path, token: str) -> None:
        process = identify(os.getpid())
        self._path = path
        self._record = WatchRecord(**asdict(process), token=token, heartbeat_s=0.0)
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.error: OSError | None = None
        """Why the last heartbeat could not be written."""

    def succeeded(self) -> None:
        """After a sync."""
        self._beat(last_sync_s=time.time(), last_error="")

    def failed(self, reason: str) -> None:
        """After a sync that was not one."""
        self._beat(last_error=reason)

    def start(self) -> None:
        self._path.unlink(missing_ok=True)
        self._thread.start()

    def stop(self) -> None:
        """Leaves no record behind."""
        self._end.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        while not self._end.is_set():
            self._beat()
            self._end.wait(HEARTBEAT_S)

    def _beat(self, **changes: float | str) -> None:
        with self._lock:
            self._record = replace(self._record, heartbeat_s=time.time(), **changes)  # type: ignore[arg-type]
            try:
                atomic_write_json(self._path, asdict(self._record))
                self.error = None
            except OSError as error:
                self.error = error


@contextmanager
def watching(target: StateFolder) -> Iterator[Heart]:
    """This process is the target's watch within the block. Raises: CommandError if another one is."""
    target.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(target.folder / "watch.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _take(descriptor, target)
        token = secrets.token_hex(16)
        write_lock(target.folder / "watch.lock", descriptor, token)
        heart = Heart(target.folder / "watch.json", token)
        heart.start()
        try:
            yield heart
        finally:
            heart.stop()
    finally:
        os.close(descriptor)


def _take(descriptor: int, target: StateFolder) -> None:
    for _ in range(20):  # whoever asks for the status holds it for a moment
        if try_lock(descriptor):
            return
        time.sleep(0.05)
    found = active_watch(target)
    who = "" if found is None else f" (pid {found.pid})"
    raise CommandError(f"another watch{who} sends to {target.target} already; end it first")
