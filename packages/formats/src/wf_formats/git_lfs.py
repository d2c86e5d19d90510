"""Pointers of Git LFS: what a clone without `git lfs` has in place of a large file."""

from __future__ import annotations

from pathlib import Path

_POINTER = b"version https://git-lfs.github.com/spec/"


def check_no_pointer(path: Path, head: bytes, error_type: type[Exception]) -> None:
    """Raises an error of the given type for a file that begins as a pointer does.

    Args:
        head: the first bytes of the file, 64 or more where it has them.
    """
    if head.startswith(_POINTER):
        raise error_type(
            f"{path} is not there yet, only a pointer of Git LFS to it: run `git lfs pull` in {path.parent}"
        )
