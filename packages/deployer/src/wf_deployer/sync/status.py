"""What is known of a preset: here, there, and of a watch. Asks the remote; changes nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from wf_deployer.errors import CommandError
from wf_deployer.sync.config import Config, Preset
from wf_deployer.sync.remote import Remote
from wf_deployer.sync.remote_program import checksum
from wf_deployer.sync.snapshot import Snapshot
from wf_deployer.sync.state import StateFolder
from wf_deployer.sync.watch_record import active_watch

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Status:
    """What `gcd status --json` prints.

    Attributes:
        files: Number of files that are to be on the remote.
        files_checksum: SHA-256 over their paths, executable bits and contents.
        remote_checksum: The same of those that the remote has; None if it has none or cannot be asked.
        in_sync: Whether both are the same; None if the remote cannot be asked.
        watch_active: Whether a watch is proved to be at work (see watch_record.py).
        last_sync: When one last succeeded, UTC.
        last_error: Of the last sync, or why the remote cannot be asked; None after success.
    """

    schema_version: int
    preset: str
    host: str
    dir: str
    files: int
    files_checksum: str
    remote_checksum: str | None
    in_sync: bool | None
    watch_active: bool
    watch_pid: int | None
    last_sync: str | None
    last_error: str | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read_status(config: Config, preset: Preset, snapshot: Snapshot) -> tuple[Status, CommandError | None]:
    """The status, and why the remote could not be asked. Raises: CommandError for a damaged state."""
    folder = StateFolder(preset, config.root)
    state, watch = folder.read(), active_watch(folder)
    remote_checksum, problem = _remote_checksum(preset, snapshot)
    is_in_sync = None if problem is not None else remote_checksum == snapshot.checksum
    status = Status(
        schema_version=SCHEMA_VERSION,
        preset=preset.name,
        host=preset.host,
        dir=preset.dir,
        files=len(snapshot.identities),
        files_checksum=snapshot.checksum,
        remote_checksum=remote_checksum,
        in_sync=is_in_sync,
        watch_active=watch is not None,
        watch_pid=None if watch is None else watch.pid,
        last_sync=None if state.last_sync_s is None else _utc(state.last_sync_s),
        last_error=str(problem) if problem else (watch and watch.last_error) or state.last_error,
    )
    return status, problem


def _remote_checksum(preset: Preset, snapshot: Snapshot) -> tuple[str | None, CommandError | None]:
    try:
        there = Remote(preset).ask("look", paths=list(snapshot.identities))["identities"]
    except CommandError as error:
        return None, error
    found = {path: identity for path, identity in there.items() if identity is not None}
    return (checksum(found) if found else None), None


def _utc(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
