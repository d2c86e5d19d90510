"""The folder of kept models: finding, writing, and making room.

One process writes at a time (a lock); another one that wants to meanwhile runs from memory this once. A file
that somebody has mapped is locked by them (`layout.open_file`) and stays.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ternary_kernels.packed.key import SUFFIX
from ternary_kernels.packed.layout import PackedFile, PackedFileError, Sections, open_file, write
from ternary_kernels.packed.settings import SIZE_VARIABLE, CacheSettings
from wf_formats.atomic import atomic_file
from wf_formats.locks import try_lock

SPARE_BYTES = 1 << 30
"""Left free on the disk for others."""
_ABANDONED_S = 3600.0
"""Age of what a killed writer left."""
_log = logging.getLogger(__name__)


class NotKeptError(Exception):
    """Why a model is not kept; the message names what hinders it."""


class PackedStore:
    """Kept models under the names of their keys."""

    def __init__(self, settings: CacheSettings) -> None:
        self._settings, self._folder = settings, settings.folder

    def find(self, name: str) -> PackedFile | None:
        """The model kept under a name; None where there is none, or a damaged one, which is removed.

        Raises:
            OSError: it is there and cannot be read.
        """
        path = self._folder / name
        try:
            file = open_file(path)
            if self._settings.is_verified:
                file.verify()
        except (FileNotFoundError, NotADirectoryError, BlockingIOError):
            return None
        except PackedFileError as error:
            self.discard(path, error)
            return None
        with suppress(OSError):  # of a folder that is only read
            os.utime(path)
        return file

    def discard(self, path: Path, error: PackedFileError) -> None:
        """Removes a damaged file, and says so.

        Raises:
            OSError: it cannot be removed.
        """
        _log.warning("%s is no packed model and is removed: %s", path, error)
        path.unlink(missing_ok=True)

    def prepare(self) -> None:
        """Makes the folder, for its owner alone: a model's file may be, too. Raises: OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def keep(self, name: str, facts: Mapping[str, Any], sections: Sections) -> PackedFile:
        """Writes a model, checks what is on the disk, and opens it.

        Raises:
            NotKeptError: there is no room, or another process writes.
            PackedFileError: what was written reads back otherwise.
            RequestError: something else than a file is in its place.
        OSError: it cannot be written.
        """
        self.prepare()
        with self._writing():
            if (file := self.find(name)) is not None:
                return file
            self._make_room(sum(array.nbytes for array in sections.values()))
            with atomic_file(self._folder / name) as temporary:
                write(temporary, facts, sections)
                open_file(temporary).verify()
            return open_file(self._folder / name)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with (self._folder / "lock").open("a") as lock:
            if not try_lock(lock):
                raise NotKeptError("another process is writing there just now")
            yield

    def _make_room(self, num_bytes: int) -> None:
        """Removes what killed writers left, then models, those not used for longest first."""
        most = self._settings.max_bytes
        if num_bytes > most:
            raise NotKeptError(f"it has {_gb(num_bytes)}, ${SIZE_VARIABLE} allows {most / 1e9:g}")
        self._remove_abandoned()
        kept = sorted(self._folder.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime_ns)
        total = sum(path.stat().st_size for path in kept)
        for path in kept:
            if total + num_bytes <= most and self._free_bytes() >= num_bytes + SPARE_BYTES:
                return
            size = path.stat().st_size
            if _is_removed(path):
                total -= size
        if total + num_bytes > most:
            raise NotKeptError(f"the kept models in use have {_gb(total)} of ${SIZE_VARIABLE}={most / 1e9:g}")
        if (free := self._free_bytes()) < num_bytes + SPARE_BYTES:
            raise NotKeptError(
                f"the disk has {_gb(free)} left, {_gb(num_bytes)} and {_gb(SPARE_BYTES)} to spare are needed"
            )

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self._folder).free

    def _remove_abandoned(self) -> None:
        for path in self._folder.glob(f".*{SUFFIX}.tmp-*"):
            if path.stat().st_mtime < time.time() - _ABANDONED_S:
                path.unlink(missing_ok=True)


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB"


def _is_removed(path: Path) -> bool:
    """Removes a model unless somebody has it mapped."""
    with path.open("r+b") as file:  # NFS locks so only what may be written
        if not try_lock(file):
            return False
        path.unlink()
    _log.info("%s was not used for longest and is removed", path)
    return True
