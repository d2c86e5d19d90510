"""A folder as a store: on a disk, a network file system, or a bucket that is mounted.

Files are copied to a temporary name, synced and renamed. An exclusive create is a hard link, which comes with
its contents or not at all; mounts of buckets have none, there the file is opened exclusively and written at
once.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from wf_formats.atomic import atomic_file, sync
from wf_formats.errors import RequestError
from wf_formats.targets import check_way
from wf_formats.temporaries import sweep, temporary
from wf_stores.errors import ObjectExistsError, ObjectMissingError
from wf_stores.layout import place_of
from wf_stores.location import Location
from wf_stores.store import PART_BYTES, Advance, Stored

_STAYS = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.EBUSY, errno.EACCES, errno.EPERM)
"""Of a folder that is not empty, was removed by another, is a mount, or is of a folder of somebody else's."""
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class LocalStore:
    keeps_crc32c = False

    def __init__(self, location: Location) -> None:
        self.url = str(location).rstrip("/")  # names follow it with a `/`
        self._root = Path(location.prefix)
        check_way(self._root / "name")

    def put_file(self, key: str, path: Path, advance: Advance) -> None:
        with (
            atomic_file(self._root / key) as temporary,
            path.open("rb") as source,
            temporary.open("wb") as target,
        ):
            while data := source.read(PART_BYTES):
                target.write(data)
                advance(len(data))

    def create(self, key: str, data: bytes) -> None:
        target = self._root / key
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._link(target, data)
        except FileExistsError as error:
            if not target.is_file():
                raise _no_file(target) from error
            raise ObjectExistsError(key) from error

    def _link(self, target: Path, data: bytes) -> None:
        sweep(target)
        with temporary(target, "tmp", partial(Path.touch, exist_ok=False)) as whole:
            try:
                whole.write_bytes(data)
                sync(whole)
                os.link(whole, target)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                _write_new(target, data)
            finally:
                whole.unlink(missing_ok=True)
        sync(target.parent)

    def read(self, key: str, start: int, num_bytes: int) -> bytes:
        path = self._root / key
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for its writer
            try:
                mode = os.fstat(descriptor).st_mode
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                    raise _no_file(path)
                return os.pread(descriptor, num_bytes, start)
            finally:
                os.close(descriptor)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise ObjectMissingError(key) from error

    def objects(self, prefix: str) -> Iterator[Stored]:
        for folder, folders, files in os.walk(self._root / prefix, onerror=_raise):
            folders.sort()
            for name in sorted(files):
                path = Path(folder, name)
                try:
                    facts = path.lstat()
                except FileNotFoundError:  # removed meanwhile
                    continue
                if not stat.S_ISREG(facts.st_mode):  # a link, a pipe: nothing that was stored
                    continue
                modified = datetime.fromtimestamp(facts.st_mtime, UTC)
                yield Stored(path.relative_to(self._root).as_posix(), facts.st_size, modified)

    def holds(self, stored: Stored, path: Path) -> bool:
        with (self._root / stored.key).open("rb") as there, path.open("rb") as here:
            while (data := here.read(PART_BYTES)) == there.read(PART_BYTES):
                if not data:
                    return True
        return False

    def delete(self, key: str) -> None:
        """The folders that an upload made go when they are empty, up to the one of its name."""
        path = self._root / key
        path.unlink(missing_ok=True)
        place = place_of(key)
        if place is None:
            return
        for folder in path.parents:
            if not _removed_if_empty(folder) or folder == self._root / place.name:
                return


def _no_file(path: Path) -> RequestError:
    return RequestError(f"{path} is no regular file, and what is stored is; move it away")


def _write_new(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        path.unlink()
        raise


def _removed_if_empty(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in _STAYS:
            raise
        return error.errno == errno.ENOENT
    return True


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error
