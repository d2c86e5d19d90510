"""Read-only memory maps of model files, and giving memory back to the system."""

from __future__ import annotations

import ctypes
import mmap
import sys
from pathlib import Path


def map_file(path: Path, error: type[ValueError]) -> mmap.mmap:
    """Maps a file read-only.

    Raises:
        ValueError: of the given class, if it is no regular file or empty.
        OSError: it is missing or cannot be read.
    """
    size = path.stat().st_size
    if not path.is_file() or not size:
        raise error(f"{path} is {'empty' if path.is_file() else 'no regular file'}")
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)


def release_pages(mapped: mmap.mmap, offset: int, num_bytes: int) -> None:
    """Drops the resident pages that lie wholly or partly in the range; reading maps them again."""
    start = offset // mmap.PAGESIZE * mmap.PAGESIZE
    length = min(offset + num_bytes, len(mapped)) - start
    if length > 0:
        mapped.madvise(mmap.MADV_DONTNEED, start, length)


def trim_heap() -> None:
    """Returns freed memory that the C library keeps for itself (glibc alone does; elsewhere nothing).

    Measured after loading a model of 2 billion weights: 794 MiB resident, 698 after this, 697 packed.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)
