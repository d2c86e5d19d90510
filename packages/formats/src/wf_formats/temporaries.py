"""Names beside a target: `.NAME.tmp-<hex>` of what is not whole yet, `.NAME.old-<hex>` of what is replaced.

Who works on one holds a shared lock of it. A process that was killed leaves it behind unlocked, and the next
that writes there removes it (`sweep`). What cannot be locked, on a file system without locks, stays: it might
be at work. Machines that write to the same target have to see each other's locks (NFS: not with `nolock`).
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_WORDS = ("tmp", "old")
_TEMPORARY = re.compile(rf"\.(?P<target>.+)\.(?P<word>{'|'.join(_WORDS)})-[0-9a-f]{{8}}")
_NO_LINK = os.O_NOFOLLOW | os.O_NONBLOCK


@contextmanager
def temporary(target: Path, word: str, make: Callable[[Path], None]) -> Iterator[Path]:
    """Makes a new name beside `target` and holds it; whoever asked for it renames or removes it.

    Args:
        word: tmp or old.
        make: makes the file or folder of a name that is not there yet. It is written in place: another file
            renamed to it would not be held.
    """
    assert word in _WORDS, word
    while True:
        path = target.with_name(f".{target.name}.{word}-{secrets.token_hex(4)}")
        make(path)
        descriptor = _held(path)
        if descriptor is not None:
            break
    try:
        yield path
    finally:
        os.close(descriptor)


def sweep(target: Path) -> None:
    """Removes what killed processes left beside `target`; what it was to replace only where it is there."""
    for left in leftovers(target.parent, target.name):
        _remove_abandoned(left)


def leftovers(folder: Path, target: str | None = None) -> list[Path]:
    """What is in a folder under a name of ours beside a target, at work or abandoned, and not needed: what a
    target replaces is, until the target is there.

    Args:
        target: its name; None: any.
    """
    try:
        entries = os.scandir(folder)
    except PermissionError:  # who may not look may write all the same
        return []
    with entries:
        found = [
            (match, Path(entry.path)) for entry in entries if (match := _TEMPORARY.fullmatch(entry.name))
        ]
    return [
        path
        for match, path in found
        if target in (None, match["target"])
        and (match["word"] == "tmp" or os.path.lexists(folder / match["target"]))
    ]


def _held(path: Path) -> int | None:
    """A descriptor with the shared lock; None: a sweep was quicker than the lock."""
    try:
        descriptor = os.open(path, os.O_RDONLY | _NO_LINK)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        is_swept = not _is_at(path, descriptor)
    except OSError as error:  # without locks nobody can sweep it either
        is_swept = isinstance(error, BlockingIOError)
    if not is_swept:
        return descriptor
    os.close(descriptor)
    return None


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove_abandoned(path: Path) -> None:
    """Unless somebody holds it, or it is not ours to remove."""
    with suppress(OSError):
        is_folder = stat.S_ISDIR(path.lstat().st_mode)
        descriptor = os.open(path, (os.O_RDONLY if is_folder else os.O_RDWR) | _NO_LINK)  # NFS locks so
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path) if is_folder else path.unlink()
        finally:
            os.close(descriptor)
