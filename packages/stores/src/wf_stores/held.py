"""A folder that processes of this machine share: who has it, and who may remove it.

The lock is a file in the folder, which the system gives back when a process ends, however it ends. Who comes
while the folder is removed makes it anew.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from wf_formats.locks import take_lock, try_lock

_LOCK = "lock"


@contextmanager
def held(folder: Path, is_shared: bool = False) -> Iterator[IO[str]]:
    """Makes the folder where it is missing, and waits for a process that has it for itself.

    Args:
        is_shared: others may have it too, and it waits for none of those.

    Yields:
        the lock, for `remove_held`.
    """
    file = _locked(folder, is_shared)
    while not _is_at(folder / _LOCK, file):
        file.close()
        file = _locked(folder, is_shared)
    with file:
        yield file


def remove_held(folder: Path, lock: IO[str]) -> bool:
    """Removes a folder that is held, unless another process has it too. Returns: whether it is gone."""
    if not try_lock(lock):
        return False
    for path in folder.iterdir():
        if path.name != _LOCK:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    (folder / _LOCK).unlink()
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise
    return True


def _locked(folder: Path, is_shared: bool) -> IO[str]:
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):  # removed since
        file = (folder / _LOCK).open("w")
        take_lock(file, is_shared=is_shared)
        return file
    return _locked(folder, is_shared)


def _is_at(path: Path, file: IO[str]) -> bool:
    """Whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
