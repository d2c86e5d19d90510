"""Text and TOML files of others: any size, any bytes."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from wf_formats.errors import RequestError

MAX_BYTES = 1 << 25
"""More than any lock file or page has."""


class FileError(RequestError):
    """A file that cannot be read as what it should be; the line names it."""


def read_text(path: Path, most_bytes: int = MAX_BYTES) -> str:
    """A UTF-8 text, with or without a byte order mark.

    Raises:
        FileError: it is missing, no file, unreadable, huge or no UTF-8.
    """
    try:
        if not path.is_file():
            raise FileError(f"{path} is {'no file' if path.exists() else 'missing'}")
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}; change its permissions") from error
    if len(data) > most_bytes:
        raise FileError(f"{path} has more than {most_bytes} bytes: that is no file of its kind")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is no UTF-8 text (byte {error.start}): save it as UTF-8") from error


def read_toml(path: Path) -> dict[str, Any]:
    """Raises: FileError, for one that is no TOML too."""
    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise FileError(f"{path} is no TOML: {error}; mend that line") from error
    except RecursionError as error:
        raise FileError(f"{path} is nested too deeply for TOML") from error
