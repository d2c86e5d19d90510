"""Advisory locks between processes of this machine.

The system gives a lock back when its holder ends, however it ends. What a holder's children inherit differs:

try_lock, take_lock   flock: of the open file, so children that inherit it hold it too (an rsync that still
                      sends keeps a sync's lock)
try_lock_of_process   lockf: of this process alone (a killed run's data workers keep nothing); gone as soon as
                      the process closes the file anywhere
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from wf_formats.errors import RequestError, UserError

File = IO[Any] | int
"""An open file, or its descriptor."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Of network file systems without a lock service."""


def try_lock(file: File, *, is_shared: bool = False) -> bool:
    """Whether the lock of an open file could be taken, for itself or with others that share it.

    Raises: RequestError where the file system has no locks.
    """
    return _tried(fcntl.flock, file, fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX)


def take_lock(file: File, *, is_shared: bool = False) -> None:
    """The same, waiting for those that have it."""
    fcntl.flock(file, fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX)


def try_lock_of_process(file: File) -> bool:
    """The same for a lock that children do not inherit; the file is open for writing."""
    return _tried(fcntl.lockf, file, fcntl.LOCK_EX)


@contextmanager
def locked(path: Path, taken: UserError, take: Callable[[File], bool] = try_lock) -> Iterator[None]:
    """Holds the lock of the file at `path`, which is made, with its folder, and goes at the end, unless a
    child has it still. One that a killed process left is taken, and goes then.

    Args: taken is raised where another process has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _taken(path, taken, take)
    while not _is_at(path, file):  # its last holder has removed it between opening and locking
        file.close()
        file = _taken(path, taken, take)
    try:
        with file:
            yield
    finally:
        _remove_free(path, take)


@contextmanager
def holding(path: Path) -> Iterator[None]:
    """Makes `is_locked` of a file true as long as this process is at it. Waits for another that holds it."""
    with open(path, "w", opener=_without_waiting) as file:
        take_lock(file)
        yield


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a file, which may be missing."""
    if not path.is_file():
        return False
    with path.open() as file:
        return not try_lock(file, is_shared=True)


def _taken(path: Path, taken: UserError, take: Callable[[File], bool]) -> IO[Any]:
    with ExitStack() as stack:
        file = stack.enter_context(open(path, "w", opener=_without_waiting))
        if not take(file):
            raise taken
        stack.pop_all()  # its caller closes it
        return file


def _remove_free(path: Path, take: Callable[[File], bool]) -> None:
    """Removes the file of a lock that nobody has, while it is held; one that cannot be removed stays."""
    with suppress(OSError), path.open("r+") as file:
        if take(file) and _is_at(path, file):
            path.unlink()


def _is_at(path: Path, file: IO[Any]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _without_waiting(path: str, flags: int) -> int:
    """Opens a file; a pipe in its place is an OSError, not waited for until somebody reads it."""
    return os.open(path, flags | os.O_NONBLOCK, 0o666)


def _tried(lock: Callable[[File, int], None], file: File, kind: int) -> bool:
    try:
        lock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        name = getattr(file, "name", f"descriptor {file}")
        raise RequestError(
            f"{name}: its file system has no locks ({error.strerror}), which keep two processes apart: "
            "choose a folder on another file system"
        ) from error
    return True
