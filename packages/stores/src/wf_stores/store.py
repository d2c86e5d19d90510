"""The interface of a store, which all above it is written against, and its patience.

A backend is a file with a class of this shape and a line in opening.py. Objects appear whole or not at all;
what is transient is retried by the backend, since its library knows what that is; its errors are those of
errors.py. Keys are relative to the store's URL, with `/` between their parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

PART_BYTES = 16 << 20
"""Of an upload's parts and a download's ranges; a thread holds one in memory, of S3 `_PARTS_AT_ONCE`."""
Advance = Callable[[int], None]
"""Called with the bytes that were just moved; what it raises ends the transfer."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server."""

    answer_s: float = 60.0
    """Without a byte of an answer."""
    total_s: float = 180.0
    """With retries, for one request."""


@dataclass(frozen=True)
class Stored:
    """An object in a listing. checksum: as the store keeps it; None where it keeps none."""

    key: str
    num_bytes: int
    modified: datetime
    checksum: str | None = None


class Store(Protocol):
    """Every method raises StoreError and NotThereError (no such bucket), those on files OSError."""

    url: str
    """As it was given, without secrets."""
    keeps_crc32c: bool
    """Whether it checks a CRC32C of every object (GCS), which the manifest then holds."""

    def put_file(self, key: str, path: Path, advance: Advance) -> None:
        """Stores a file, in parts where it is large; replaces an object with the same key."""

    def create(self, key: str, data: bytes) -> None:
        """Stores a small object if there is none with this key.

        Raises:
            ObjectExistsError: there is one; after a lost answer it may be this one.
            UnavailableError: it may be stored or not.
        """

    def read(self, key: str, start: int, num_bytes: int) -> bytes:
        """Bytes of an object from `start` on, fewer where it ends. Raises: ObjectMissingError."""

    def objects(self, prefix: str) -> Iterator[Stored]:
        """All objects whose key begins with `prefix`, which is empty or ends with `/`."""

    def holds(self, stored: Stored, path: Path) -> bool:
        """Whether an object of the same size is this file, by the checksum that the store keeps."""

    def delete(self, key: str) -> None:
        """Removes an object; none there is no error."""
