"""One sync, from the look at both sides to the remote's proof.

1. The lock is taken, the checkout read (snapshot.py), and the remote asked what it has of it and of what was
   sent before; so only files that differ are sent, whatever times and sizes say.
2. What may arrive is noted here, and the remote's record says that a sync is on its way.
3. Deletions, rsync, and the files that path_fix changes.
4. The remote compares what was sent, and gets a new nonce only if all is there; then it is noted here.
5. `uv sync` in the projects whose files for uv changed.

A sync that is killed at any point is completed by the next one.
"""

from __future__ import annotations

import base64
import os
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from wf_deployer.errors import CommandError
from wf_deployer.sync.config import Config, Preset
from wf_deployer.sync.dependencies import pending_projects
from wf_deployer.sync.plan import Plan, make_plan
from wf_deployer.sync.remote import Remote
from wf_deployer.sync.rsync import RsyncOptions, send
from wf_deployer.sync.snapshot import Snapshot, take_snapshot
from wf_deployer.sync.state import State, StateFolder
from wf_deployer.sync.watch_record import active_watch
from wf_formats.boundary import explained
from wf_formats.errors import RequestError, UserError
from wf_formats.printable import printable


@dataclass(frozen=True)
class SyncOptions:
    """Attributes: as the options of `gcd sync-ssh`."""

    smart: bool = False
    delete: bool = False
    force: bool = False
    skip_deps: bool = False
    rsync: RsyncOptions = field(default_factory=RsyncOptions)


@dataclass(frozen=True)
class Look:
    """What the remote has.

    Attributes:
        dir: The folder's whole path there.
        obstacles: What it has, in words, where folders would have to be.
    """

    dir: str
    record: dict[str, Any] | None
    identities: dict[str, str | None]
    obstacles: dict[str, str]

    @property
    def done_deps(self) -> dict[str, str]:
        return {} if self.record is None else self.record["deps"]

    def is_of(self, state: State) -> bool:
        """Whether the last sync there is the one that we remember."""
        return state.nonce is not None and self.record is not None and self.record["nonce"] == state.nonce


class Sync:
    """Syncs of a checkout to a preset.

    Attributes:
        files: Paths of the last snapshot.
        listed: What git listed then, those that are not sent too.
    """

    def __init__(
        self, config: Config, preset: Preset, options: SyncOptions, say: Callable[[str], None]
    ) -> None:
        self.config = config
        self.preset = preset
        self.options = options
        self.folder = StateFolder(preset, config.root)
        self.files: frozenset[str] = frozenset()
        self.listed: frozenset[str] = frozenset()
        self._say = say
        self._remote = Remote(preset)
        self._told: tuple[str, ...] = ()

    def run(self) -> None:
        """Makes the remote like the checkout.

        Raises:
            RequestError: nothing was changed anywhere.
            CommandError: no connection, files that could not be sent, a failed `uv sync`.
        """
        with self.folder.locked(self._say) as lock:
            state = self.folder.read()
            try:
                self._run(state, lock)
            except (CommandError, OSError) as error:
                state.last_error = reason_of(error)
                with suppress(OSError):  # the disk may be what is full
                    self.folder.write(state)
                raise

    def show_plan(self) -> None:
        """Says what `run` would do; changes nothing here or there. Raises: as `run`."""
        snapshot, state = self._snapshot(), self.folder.read()
        look = self._look(snapshot, state)
        plan = self._plan(snapshot, state, look)
        for verb, paths in (("send", plan.send), ("delete", plan.delete), ("keep, changed there", plan.kept)):
            for path in paths:
                fix = " (with path_fix)" if path in snapshot.fixed else ""
                self._say(f"{verb}: {printable(path)}{fix}")
        for project in self._pending(snapshot, look):
            self._say(f"uv sync: {printable(project)}")
        plan.check_deletions(self.options.force)
        self._say(f"would send {self._amount(snapshot, plan)} to {self.preset.target}; nothing was changed")

    def _run(self, state: State, lock: int) -> None:
        snapshot = self._snapshot()
        if self.options.smart and (pid := self._watcher(state, snapshot)) is not None:
            self._say(f"{self.preset.name}: nothing to do, a watch (pid {pid}) keeps it in sync")
            return
        look = self._look(snapshot, state)
        plan = self._plan(snapshot, state, look)
        is_same = plan.is_empty and look.is_of(state) and state.checksum == snapshot.checksum
        if not (self.options.smart and is_same):
            plan.check_deletions(self.options.force)
            self._send(snapshot, state, look, plan, lock)
        pending = self._pending(snapshot, look)
        if pending:
            self._sync_dependencies(pending)
        elif self.options.smart and is_same:
            self._say(f"{self.preset.name}: nothing changed since the last sync to {self.preset.target}")
        if state.last_error is not None:
            state.last_error = None
            self.folder.write(state)

    def _snapshot(self) -> Snapshot:
        snapshot = take_snapshot(self.config)
        self.listed = snapshot.listed
        if snapshot.left_out != self._told:
            for line in snapshot.left_out:
                self._say(line)
            self._told = snapshot.left_out
        if not snapshot.identities and not (self.options.delete and self.options.force):
            raise RequestError(
                f"there is no file to send in {self.config.root}: `git status` there shows what git knows"
            )
        self.files = frozenset(snapshot.identities)
        return snapshot

    def _watcher(self, state: State, snapshot: Snapshot) -> int | None:
        """The pid of another process that watches and has sent just this to the same machine."""
        watch = active_watch(self.folder)
        if watch is None or watch.pid == os.getpid() or watch.last_error:
            return None
        if state.checksum != snapshot.checksum:
            return None
        return watch.pid if self._ask_look([]).is_of(state) else None

    def _look(self, snapshot: Snapshot, state: State) -> Look:
        return self._ask_look([*snapshot.identities, *self._gone(snapshot, state)])

    def _ask_look(self, paths: list[str]) -> Look:
        answer = self._remote.ask("look", paths=paths)
        if not answer["rsync"]:
            raise CommandError(
                f"{self.preset.name} ({self.preset.target}) has no rsync; install it there (apt-get install "
                "rsync)"
            )
        return Look(answer["dir"], answer["record"], answer["identities"], answer["obstacles"])

    def _plan(self, snapshot: Snapshot, state: State, look: Look) -> Plan:
        """A machine without a record has nothing of ours, whatever is remembered of another one."""
        sent = {} if look.record is None else state.sent
        gone = self._gone(snapshot, state)
        plan = make_plan(snapshot.identities, sent, look.identities, gone)
        left = {path: what for path, what in look.obstacles.items() if path not in plan.delete}
        if (blocked := self._blocked(plan, left, sent)) is not None:
            raise RequestError(blocked)
        return plan

    def _blocked(self, plan: Plan, obstacles: Mapping[str, str], sent: Collection[str]) -> str | None:
        """Why nothing can be sent: a link, or a file, in the way, which rsync would take away unasked."""
        for path, what in obstacles.items():
            below = next((name for name in plan.send if name.startswith(f"{path}/")), None)
            if below is not None:
                was_sent = path in sent and not self.options.delete
                fix = (
                    ", or use --delete: it was sent from here, and goes if it is unchanged"
                    if was_sent
                    else ""
                )
                return (
                    f"{self.preset.name} ({self.preset.target}): {printable(path)} is {printable(what)} on "
                    f"that machine, and {printable(below)} belongs below it; remove or rename it there{fix}"
                )
        return None

    def _gone(self, snapshot: Snapshot, state: State) -> list[str]:
        return snapshot.gone(state.sent) if self.options.delete else []

    def _send(self, snapshot: Snapshot, state: State, look: Look, plan: Plan, lock: int) -> None:
        started_s = time.monotonic()
        before = {} if look.record is None else state.sent
        state.sent = before | {
            path: sorted({*before.get(path, ()), identity}) for path, identity in snapshot.identities.items()
        }
        state.nonce = state.checksum = None
        self.folder.write(state)
        abandoned = snapshot.gone(before)
        begun = self._remote.ask("begin", delete=plan.delete, abandoned=abandoned, send=plan.send)
        if (blocked := self._blocked(plan, begun["obstacles"], ())) is not None:  # since the look
            raise CommandError(blocked)
        deleted = begun["deleted"]
        copied = [path for path in plan.send if path not in snapshot.fixed]
        if copied:
            send(self.preset, snapshot.root, look.dir, copied, self.options.rsync, pass_fds=(lock,))
        nonce = secrets.token_hex(16)
        self._finish(snapshot, plan, nonce)
        gone = {path for path, identity in look.identities.items() if identity is None} | set(deleted)
        state.sent = {path: ids for path, ids in state.sent.items() if path not in gone}
        state.sent |= {path: [identity] for path, identity in snapshot.identities.items()}
        state.nonce, state.checksum = nonce, snapshot.checksum
        state.last_sync_s, state.last_error = time.time(), None
        self.folder.write(state)
        kept = f"; kept {len(plan.kept)} that were changed there" if plan.kept else ""
        self._say(
            f"{self.preset.name}: sent {self._amount(snapshot, plan)} to {self.preset.target} "
            f"in {time.monotonic() - started_s:.1f} s{kept}"
        )

    def _finish(self, snapshot: Snapshot, plan: Plan, nonce: str) -> None:
        fixed = {path: snapshot.fixed[path] for path in plan.send if path in snapshot.fixed}
        wrong = self._remote.ask(
            "finish",
            write={
                path: {"content": base64.b64encode(file.content).decode(), "mode": file.mode}
                for path, file in fixed.items()
            },
            expected={path: snapshot.identities[path] for path in plan.send},
            nonce=nonce,
            checksum=snapshot.checksum,
        )["wrong"]
        if wrong:
            more = f" and {len(wrong) - 1} more files" if len(wrong) > 1 else ""
            raise CommandError(
                f"{printable(wrong[0])}{more} changed while being sent to {self.preset.target}; run it again"
            )

    def _pending(self, snapshot: Snapshot, look: Look) -> dict[str, str]:
        if self.options.skip_deps or not snapshot.identities:
            return {}
        return pending_projects(self.config.uv_projects, snapshot.identities, look.done_deps)

    def _sync_dependencies(self, pending: dict[str, str]) -> None:
        self._say(f"{self.preset.name}: uv sync in {', '.join(map(printable, pending))}")
        done = self._remote.ask("deps", show=self._say, projects=pending)
        if done["failed"] is not None:
            raise CommandError(
                f"uv sync failed in {printable(str(done['failed']))} on {self.preset.target} (exit code "
                f"{done['code']}, its words are above); mend it, or leave it out with --skip-deps"
            )

    def _amount(self, snapshot: Snapshot, plan: Plan) -> str:
        deleted = f", delete {len(plan.delete)}" if plan.delete else ""
        return f"{_files(len(plan.send))} ({_size(snapshot.num_bytes(plan.send))}){deleted}"


def reason_of(error: UserError | OSError) -> str:
    """One line."""
    return explained(error) if isinstance(error, OSError) else str(error)


def _files(count: int) -> str:
    return f"{count} file" if count == 1 else f"{count} files"


def _size(num_bytes: int) -> str:
    if num_bytes < 1000:
        return f"{num_bytes} B"
    value, units = num_bytes / 1000, iter("kMG")
    unit = next(units)
    while value >= 1000 and unit != "G":
        value, unit = value / 1000, next(units)
    return f"{value:.1f} {unit}B"
