"""A file whose reading is counted, and can be stopped from another thread."""

from __future__ import annotations

from typing import IO

from wf_stores.store import Advance


class CountedFile:
    """What libraries ask of a file that they send. `error` is what `advance` or the disk raised, since a
    library may wrap it."""

    def __init__(self, file: IO[bytes], advance: Advance) -> None:
        self._file = file
        self._advance = advance
        self._furthest = 0
        self.error: BaseException | None = None

    def read(self, num_bytes: int = -1) -> bytes:
        """Bytes that are sent again after a lost connection count once."""
        try:
            data = self._file.read(num_bytes)
            position = self._file.tell()
            self._advance(max(0, position - self._furthest))
        except BaseException as error:
            self.error = error
            raise
        self._furthest = max(self._furthest, position)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True
