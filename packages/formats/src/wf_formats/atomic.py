"""Files and folders that appear whole or not at all, with the permissions that the user's umask gives.

What is there already is replaced only if `wf_formats.targets` takes it for ours. What a killed process left
beside it goes with the next write (`wf_formats.temporaries`).
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from wf_formats.targets import FolderKind, check_file, check_folder
from wf_formats.temporaries import sweep, temporary

_FILE_BITS = 0o666
_OF_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


@contextmanager
def atomic_folder(target: Path | str, kind: FolderKind | None = None) -> Iterator[Path]:
    """Yields a temporary folder beside `target`; on success it is synced and renamed to `target`.

    An existing folder at `target` is replaced by two renames (the old one is removed last); an
    exception inside leaves it untouched.

    Args:
        kind: what an existing folder must be; None only where nobody but us puts anything.

    Raises:
        RequestError: something else is there; nothing is written.
        OSError: names `target`, not the temporary folder.
    """
    target = _absolute(target)
    _check_folder(target, kind)
    with errors_about(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target)
        with temporary(target, "tmp", Path.mkdir) as folder:
            try:
                yield folder
                _let_umask_decide(folder)
                for path in sorted(folder.rglob("*")):
                    sync(path)
                sync(folder)
                _check_folder(target, kind)
                _replace_folder(folder, target)
            finally:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def atomic_file(target: Path | str) -> Iterator[Path]:
    """Yields an empty temporary file beside `target`; on success it is synced and renamed to `target`.

    An exception inside leaves an existing file at `target` untouched, and no temporary file.

    Raises:
        RequestError: something else than a regular file is there; nothing is written.
        OSError: names `target`, not the temporary file.
    """
    target = _absolute(target)
    check_file(target)
    with errors_about(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target)
        with temporary(target, "tmp", partial(Path.touch, exist_ok=False)) as file:
            mode = stat.S_IMODE(file.stat().st_mode)
            try:
                yield file
                file.chmod(mode)
                sync(file)
                check_file(target)
                file.replace(target)
                sync(target.parent)
            finally:
                file.unlink(missing_ok=True)


def atomic_write_bytes(target: Path | str, data: bytes) -> None:
    """Writes a file by temporary file, fsync and rename."""
    with atomic_file(target) as file:
        file.write_bytes(data)


def atomic_write_text(target: Path | str, text: str) -> None:
    """`atomic_write_bytes` of UTF-8 text."""
    atomic_write_bytes(target, text.encode())


def atomic_write_json(target: Path | str, value: Any) -> None:
    """`atomic_write_text` of indented JSON. Raises: ValueError for NaN and infinities, which JSON lacks."""
    atomic_write_text(target, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextmanager
def errors_about(target: Path) -> Iterator[None]:
    """Errors about the temporary name, and those of writing (which have no name), are about the target. For
    those who write into an `atomic_folder` of another process."""
    try:
        yield
    except OSError as error:
        hidden = str(target.with_name(f".{target.name}."))
        has_no_name = error.filename is None and error.errno in _OF_WRITING
        if has_no_name or str(error.filename).startswith(hidden):
            error.filename, error.filename2 = str(target), None
        raise


def sync(path: Path) -> None:
    """Until a file's contents, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _absolute(target: Path | str) -> Path:
    """With a name of its own (`.` has none); a link at the end stays one."""
    return Path(os.path.abspath(target))


def _check_folder(target: Path, kind: FolderKind | None) -> None:
    if kind is not None:
        check_folder(target, kind)
    elif target.is_symlink() or not target.is_dir():
        check_folder(target, FolderKind("a folder", lambda _: ()))


def _let_umask_decide(folder: Path) -> None:
    """Some libraries write files for their owner only; the folder's own bits are what the umask leaves."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    for path in folder.rglob("*"):
        path.chmod(mode if path.is_dir() else mode & _FILE_BITS)


def _replace_folder(source: Path, target: Path) -> None:
    if not target.exists():
        os.replace(source, target)
        sync(target.parent)
        return
    with temporary(target, "old", Path.mkdir) as old:
        os.replace(target, old / target.name)
        os.replace(source, target)
        sync(target.parent)
        shutil.rmtree(old)
