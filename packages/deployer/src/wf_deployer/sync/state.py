"""What this machine remembers of a target: a folder for each host, port, dir and checkout.

    state.json    what was sent, the nonce and checksum of the last sync, its time, the last error; written
                  under the lock, before files are sent (all that may arrive) and after
    lock          held (flock) while a sync runs, by its rsync too; the system frees it when they end, however
                  they end; holds who it was
    watch.json, watch.lock   see watch_record.py

The folder is below $XDG_STATE_HOME, else ~/.local/state.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from wf_deployer.backends.local.identity import ProcessIdentity, identify, is_alive
from wf_deployer.errors import CommandError
from wf_deployer.sync.config import Preset
from wf_formats.atomic import atomic_write_json
from wf_formats.json_file import read_value
from wf_formats.locks import try_lock

FORMAT = 1
LOCK_WAIT_S = 30.0
_KINDS: dict[str, tuple[type, ...]] = {
    "nonce": (str, type(None)),
    "checksum": (str, type(None)),
    "last_sync_s": (float, type(None)),
    "last_error": (str, type(None)),
    "sent": (dict,),
    "format": (int,),
}


@dataclass
class State:
    """Attributes: sent has the identities that the remote may have of each path."""

    nonce: str | None = None
    checksum: str | None = None
    last_sync_s: float | None = None
    last_error: str | None = None
    sent: dict[str, list[str]] = field(default_factory=dict)
    format: int = FORMAT


class StateFolder:
    """Reading makes nothing; `locked` makes the folder."""

    def __init__(self, preset: Preset, root: Path) -> None:
        key = "\0".join((preset.host, str(preset.port or ""), preset.dir, str(root.resolve())))
        digest = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
        self.folder = _state_home() / "wrinklefree" / "sync" / digest[:32]
        self.target = preset.target

    def read(self) -> State:
        """A new one where nothing was sent yet. Raises: CommandError for a damaged file."""
        path = self.folder / "state.json"
        if not path.is_file():
            return State()
        try:
            return _checked(read_value(path, CommandError), path)
        except CommandError as error:
            raise CommandError(f"{error}; remove it: what was sent before is then forgotten") from error

    def write(self, state: State) -> None:
        atomic_write_json(self.folder / "state.json", asdict(state))

    @contextmanager
    def locked(self, say: Callable[[str], None]) -> Iterator[int]:
        """Keeps other syncs to the target off; yields the lock's descriptor, for children to hold.

        Raises:
            CommandError: another sync still runs after half a minute.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._wait(descriptor, say)
            write_lock(self.folder / "lock", descriptor, json.dumps(asdict(identify(os.getpid()))))
            yield descriptor
        finally:
            os.close(descriptor)

    def _wait(self, descriptor: int, say: Callable[[str], None]) -> None:
        if try_lock(descriptor):
            return
        say(f"waiting for another sync to {self.target}")
        deadline_s = time.monotonic() + LOCK_WAIT_S
        while not try_lock(descriptor):
            if time.monotonic() > deadline_s:
                raise CommandError(f"another sync to {self.target} is on its way ({_holder(descriptor)})")
            time.sleep(0.1)


def write_lock(path: Path, descriptor: int, text: str) -> None:
    """Says in a lock's file who holds it. Raises: OSError with the path."""
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
    except OSError as error:
        error.filename = str(path)
        raise


def _holder(descriptor: int) -> str:
    """Who holds the lock, as well as it can be known."""
    try:
        holder = ProcessIdentity(**json.loads(os.pread(descriptor, 1000, 0)))
    except (ValueError, TypeError):
        return "it has just begun; wait for it"
    if is_alive(holder):
        return f"pid {holder.pid}; wait for it, or end it"
    return f"pid {holder.pid} was ended, but its rsync still sends; wait for it"


def _state_home() -> Path:
    named = os.environ.get("XDG_STATE_HOME", "")
    try:
        return Path(named) if os.path.isabs(named) else Path.home() / ".local" / "state"
    except RuntimeError as error:
        raise CommandError("this user has no home folder; set XDG_STATE_HOME") from error


def _checked(value: Any, path: Path) -> State:
    if not isinstance(value, dict) or value.keys() != {field.name for field in fields(State)}:
        raise CommandError(f"{path} is damaged: it has other keys than it was written with")
    for name, kinds in _KINDS.items():
        if type(value[name]) not in kinds:
            raise CommandError(f"{path} is damaged: {name} is {value[name]!r:.60}")
    if value["format"] != FORMAT or not all(_is_sent(item) for item in value["sent"].values()):
        raise CommandError(f"{path} is damaged or of another version")
    return State(**value)


def _is_sent(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
