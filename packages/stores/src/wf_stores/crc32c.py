"""CRC32C as Google Cloud Storage writes it."""

from __future__ import annotations

import base64
from pathlib import Path

import google_crc32c

from wf_stores.store import PART_BYTES


class Crc32c:
    """Like a digest of hashlib's."""

    def __init__(self) -> None:
        self._checksum = google_crc32c.Checksum()

    def update(self, data: bytes) -> None:
        self._checksum.update(data)

    def shown(self) -> str:
        """Base64 of its four bytes, the highest first."""
        return base64.b64encode(self._checksum.digest()).decode()


def crc32c_of(path: Path) -> str:
    """Of a file. Raises: OSError."""
    checksum = Crc32c()
    with path.open("rb") as file:
        while data := file.read(PART_BYTES):
            checksum.update(data)
    return checksum.shown()
