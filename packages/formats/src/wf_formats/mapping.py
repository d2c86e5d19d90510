"""Read-only memory maps of model files, and giving their pages back."""

from __future__ import annotations

import mmap
from pathlib import Path

from wf_formats.git_lfs import check_no_pointer


def absence(path: Path) -> str:
    """What is in the place of a regular file that was looked for, to follow its name."""
    if path.exists():
        return "is a folder" if path.is_dir() else "is no regular file"
    return f"is a link to {path.readlink()}, which is missing" if path.is_symlink() else "is missing"


def map_file(path: Path, error: type[ValueError]) -> mmap.mmap:
    """Maps a file read-only.

    Raises:
        ValueError: of the given class, if it is not a regular file, empty, or a pointer of Git LFS.
        OSError: it is missing or cannot be read.
    """
    size = path.stat().st_size
    if not path.is_file() or not size:
        raise error(f"{path} is {'empty' if path.is_file() else 'no regular file'}")
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    check_no_pointer(path, mapped[:64], error)
    return mapped


def release_pages(mapped: mmap.mmap, offset: int, num_bytes: int) -> None:
    """Drops the resident pages that lie wholly or partly in the range; reading maps them again."""
    start = offset // mmap.PAGESIZE * mmap.PAGESIZE
    length = min(offset + num_bytes, len(mapped)) - start
    if length > 0:
        mapped.madvise(mmap.MADV_DONTNEED, start, length)
