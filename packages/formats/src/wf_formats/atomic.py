"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_folder(target: Path | str) -> Iterator[Path]:
    """Yields a temporary folder beside `target`; on success it is synced and renamed to `target`.

    An existing folder at `target` is replaced by two renames (the old one is removed last); an
    exception inside leaves it untouched.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.tmp-", dir=target.parent))
    temporary.chmod(0o755)
    try:
        yield temporary
        for path in sorted(temporary.rglob("*")):
            _sync(path)
        _sync(temporary)
        _replace_folder(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def atomic_file(target: Path | str) -> Iterator[Path]:
    """Yields an empty temporary file beside `target`; on success it is synced and renamed to `target`.

    An exception inside leaves an existing file at `target` untouched, and no temporary file.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.tmp-", dir=target.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        _sync(temporary)
        temporary.replace(target)
        _sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write_bytes(target: Path | str, data: bytes) -> None:
    """Writes a file by temporary file, fsync and rename."""
    with atomic_file(target) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(target: Path | str, text: str) -> None:
    """`atomic_write_bytes` of UTF-8 text."""
    atomic_write_bytes(target, text.encode())


def atomic_write_json(target: Path | str, value: Any) -> None:
    """`atomic_write_text` of indented JSON. Raises: ValueError for NaN and infinities, which JSON lacks."""
    atomic_write_text(target, json.dumps(value, indent=2, allow_nan=False) + "\n")


def _replace_folder(source: Path, target: Path) -> None:
    old = None
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old-", dir=target.parent))
        os.replace(target, old / target.name)
    os.replace(source, target)
    _sync(target.parent)
    if old is not None:
        shutil.rmtree(old)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
