"""SHA-256 of a model's files, found once and remembered by what the file system says of them.

A record is a small file. Its name is the digest of every file's path, device, inode, size, time of last
change of the contents (mtime) and of last change of anything (ctime), in nanoseconds; it holds the SHA-256
found then. Where any of these differs there is no record, and the files are read again: 0.6 s for a GB.

What holds: programs can put back a file's mtime, not its ctime. So a file that was written again, replaced or
renamed over is read again, whatever its size and times say. Times move in grains, so nothing is recorded of
files that changed less than `GRAIN_S` before (`Identity.is_settled`): a change in the same grain would go
unseen.

What does not: a clock (of this machine, or of a file server) that was set back by more than `GRAIN_S`; blocks
changed below the file system; a file that somebody keeps writing through a mapping while it is read. And
somebody who may write the folder can record what they like: it must be as trusted as the models themselves.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wf_formats.atomic import atomic_write_text
from wf_formats.digests import file_sha256

GRAIN_S = 2.0
"""The coarsest of times that file systems keep (FAT)."""
MAX_RECORDS = 1000
"""The oldest beyond it are removed."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Identity:
    """What the file system says of some files at one time."""

    digest: str
    changed_s: float
    """The last change of one of them, in seconds since the epoch."""
    seen_s: float
    """When the file system was asked."""

    @property
    def is_settled(self) -> bool:
        """Whether every change since then gives another identity."""
        return self.changed_s <= self.seen_s - GRAIN_S


def identity_of(files: Sequence[Path]) -> Identity:
    """Of files in their order. Raises: OSError."""
    digest, changed_ns, seen_s = hashlib.sha256(), 0, time.time()
    for file in files:
        facts = file.stat()
        numbers = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
        digest.update(os.fsencode(os.path.realpath(file)) + f"\0{numbers}\n".encode())
        changed_ns = max(changed_ns, facts.st_mtime_ns, facts.st_ctime_ns)
    return Identity(digest.hexdigest(), changed_ns / 1e9, seen_s)


def files_sha256(files: Sequence[Path]) -> str:
    """Of names and contents. Raises: OSError."""
    lines = (os.fsencode(file.name) + b" " + file_sha256(file).encode() for file in files)
    return hashlib.sha256(b"\n".join(lines)).hexdigest()


class ContentRecords:
    """The records in one folder, which is made when the first is written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def known(self, identity: Identity) -> str | None:
        """The SHA-256 recorded for files; None: there is no record, or none that can be read."""
        try:
            found = self._path(identity).read_text("ascii")
        except (OSError, UnicodeDecodeError):
            return None
        return found if _SHA256.fullmatch(found) else None

    def add(self, identity: Identity, sha256: str) -> None:
        """Records what was found in files.

        Args:
            identity: settled, and from before they were read.

        Raises:
            OSError: the record cannot be written.
        """
        assert identity.is_settled, identity
        self._remove_oldest()
        atomic_write_text(self._path(identity), sha256)

    def _path(self, identity: Identity) -> Path:
        return self._folder / identity.digest

    def _remove_oldest(self) -> None:
        if not self._folder.is_dir():
            return
        records = [(entry.stat().st_mtime_ns, entry.path) for entry in os.scandir(self._folder)]
        for _, path in sorted(records)[: max(0, len(records) - MAX_RECORDS + 1)]:
            Path(path).unlink(missing_ok=True)
