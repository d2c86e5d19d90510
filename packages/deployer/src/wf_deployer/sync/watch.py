"""Sends changes as they happen, until Ctrl-C.

Changes come in batches from watchfiles (inotify; polling on file systems of other machines, where it sees
nothing). A batch that touches no file that is sent is passed over; of git's own files the index counts, if
git lists others by it (`git add --force`). A sync that fails is said, and tried again after 2, 4, ... at most
60 s; changes meanwhile go with it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import psutil  # type: ignore[import-untyped]  # no stubs in the development group
import watchfiles
from watchfiles._rust_notify import WatchfilesRustInternalError

from wf_deployer.errors import CommandError
from wf_deployer.sync.git_files import listed_files
from wf_deployer.sync.sync_run import Sync, reason_of
from wf_deployer.sync.watch_record import Heart, watching
from wf_formats.boundary import explained
from wf_formats.errors import UserError
from wf_formats.printable import legible, printable

TICK_MS = 500
FIRST_DELAY_S = 2.0
LONGEST_DELAY_S = 60.0
_UNNAMED = "Unable to decode path"
"""In watchfiles' error for a changed file whose name is no UTF-8."""
_REMOTE_FILE_SYSTEMS = (
    *("nfs", "cifs", "smb", "9p", "afs", "ceph", "glusterfs", "lustre", "fuse."),
    *("gpfs", "beegfs", "virtiofs", "vboxsf"),
)
_INDEX = os.path.join(".git", "index")


class Retries:
    """When to sync: at once after a change, later and later after failures."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._is_pending = True
        self._failures = 0
        self._due_s = now()

    def request(self) -> None:
        self._is_pending = True

    @property
    def is_due(self) -> bool:
        return self._is_pending and self._now() >= self._due_s

    def succeeded(self) -> None:
        self._is_pending, self._failures = False, 0

    def failed(self) -> float:
        """Seconds to the next try."""
        delay_s = min(FIRST_DELAY_S * 2.0**self._failures, LONGEST_DELAY_S)
        self._failures += 1
        self._due_s = self._now() + delay_s
        return delay_s


def watch(sync: Sync, say: Callable[[str], None]) -> None:
    """Returns after Ctrl-C, SIGTERM or SIGHUP.

    Raises:
        CommandError: another watch sends to the target, or the system watches no more files.
    """
    root = sync.config.root
    polling = needs_polling(root)
    with watching(sync.folder) as heart:
        how = " by polling, since its file system is another machine's" if polling else ""
        say(f"watching {printable(str(root))}{how} for {sync.preset.target}; Ctrl-C ends it")
        try:
            with _ended_by_signals():
                _follow(sync, heart, Retries(), polling, say)
        except KeyboardInterrupt:
            say("watch ended")


def _follow(sync: Sync, heart: Heart, retries: Retries, polling: bool, say: Callable[[str], None]) -> None:
    told = None
    for changed in _batches(sync.config.root, polling):
        if changed is None or (changed and _concerns(changed, sync)):
            retries.request()
        if retries.is_due:
            _try(sync, heart, retries, say)
        reason = None if heart.error is None else explained(heart.error)
        if reason not in (None, told):
            say(f"the watch cannot say that it is active: {reason}")
        told = reason


def _try(sync: Sync, heart: Heart, retries: Retries, say: Callable[[str], None]) -> None:
    try:
        sync.run()
    except (UserError, OSError) as error:
        reason = reason_of(error)
        delay_s = retries.failed()
        heart.failed(reason)
        say(f"not synced: {legible(reason)}; next try in {delay_s:.0f} s")
    else:
        retries.succeeded()
        heart.succeeded()


def _batches(root: Path, polling: bool) -> Iterator[set[str] | None]:
    """Paths below root that changed, nothing at a tick.

    None stands for changes that were not named: of files whose names are no UTF-8, or after the watcher
    failed on its way. It is begun anew then; one that fails at its beginning is an error.
    """
    while True:
        has_begun = False
        try:
            for changes in watchfiles.watch(
                root,
                watch_filter=lambda _, path: not _is_of_git(path, root),
                rust_timeout=TICK_MS,
                yield_on_timeout=True,
                force_polling=polling or None,
                # ignore_permission_denied=True would pass over inotify's limits too
            ):
                has_begun = True
                yield {os.path.relpath(path, root) for _, path in changes}
        except (WatchfilesRustInternalError, OSError) as error:
            if not has_begun and _UNNAMED not in str(error):
                raise CommandError(
                    f"{printable(str(root))} cannot be watched: {printable(str(error))}; make its folders "
                    "readable, raise fs.inotify.max_user_watches or max_user_instances, or set "
                    "WATCHFILES_FORCE_POLLING=1"
                ) from error
            yield None


def _is_of_git(path: str, root: Path) -> bool:
    """But for the index, by which a file may be sent that did not change."""
    inside = Path(path).relative_to(root)
    return ".git" in inside.parts and str(inside) != _INDEX


def _concerns(changed: Collection[str], sync: Sync) -> bool:
    """Whether a path is one that was sent, would be sent, or a folder of such, or git lists others."""
    try:
        listed, _ = listed_files(sync.config.root)
    except UserError:  # the sync will say it
        return True
    is_other = _INDEX in changed and sync.listed != set(listed)
    return is_other or concerns(changed, {*listed, *sync.files})


def concerns(changed: Iterable[str], files: Iterable[str]) -> bool:
    """Whether a changed path is among the files or their folders."""
    places = set(files)
    places |= {str(folder) for path in list(places) for folder in PurePosixPath(path).parents}
    return any(path in places for path in changed)


def needs_polling(path: Path) -> bool:
    """Whether the path is on a file system whose changes inotify does not see."""
    place = str(path.resolve())
    mounts = [
        (len(mount.mountpoint), order, mount.fstype)
        for order, mount in enumerate(psutil.disk_partitions(all=True))  # the last one of a place covers it
        if place == mount.mountpoint or place.startswith(mount.mountpoint.rstrip("/") + "/")
    ]
    return max(mounts, default=(0, 0, ""))[2].startswith(_REMOTE_FILE_SYSTEMS)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # nohup's wish
            signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
