"""API keys that a server asks for: where they come from and what they may look like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wf_formats.errors import RequestError
from wrinklefree_inference.options import ListenOptions

_MIN_CHARS = 4


def keys_of(listen: ListenOptions) -> list[str]:
    """The keys of a server."""
    return read_keys(listen.api_key or (), listen.api_key_file)


def read_keys(given: Sequence[str] = (), path: Path | None = None) -> list[str]:
    """Keys from options and from a file with one a line (empty lines and `#` lines are skipped), each once.

    Raises:
        RequestError: A key that no header can carry, a short one, or a file without keys.
    """
    keys = list(given)
    if path is not None:
        lines = [line.strip() for line in _text_of(path).splitlines()]
        from_file = [line for line in lines if line and not line.startswith("#")]
        if not from_file:
            raise RequestError(f"{path} has no keys: write one a line")
        keys += from_file
    for position, key in enumerate(keys):
        if len(key) < _MIN_CHARS or not key.isascii() or not key.isprintable() or " " in key:
            raise RequestError(  # without the key itself: it would end in a log
                f"API key {position} must have {_MIN_CHARS} or more printable ASCII characters, no spaces"
            )
    return list(dict.fromkeys(keys))


def _text_of(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{path} is not text in UTF-8 (byte {error.start}): write one key a line"
        ) from error
