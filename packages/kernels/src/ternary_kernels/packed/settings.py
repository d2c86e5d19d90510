"""What the environment says of the cache."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from wf_formats.errors import RequestError
from wf_formats.packaged import cache_folder

MODE_VARIABLE, SIZE_VARIABLE = "WF_PACKED_CACHE", "WF_PACKED_CACHE_GB"
DEFAULT_GB = 20.0


@dataclass(frozen=True)
class CacheSettings:
    """Where packed models are kept, and how many."""

    folder: Path
    max_bytes: int
    is_verified: bool
    """Whether a kept model is read and checked whole."""
    keeps_models: bool = True
    """False: models are packed afresh, and which format is faster here is remembered alone."""

    @classmethod
    def from_environment(cls) -> CacheSettings | None:
        """None: nothing is kept.

        Raises:
            RequestError: a variable has another value than it may.
            CacheError: there is no folder for it (`wf_formats.packaged.cache_folder`).
        """
        mode = os.environ.get(MODE_VARIABLE, "1")
        if mode not in ("0", "1", "verify"):
            raise RequestError(f"${MODE_VARIABLE} is {mode!r:.60}: set it to 0 (off), 1 (on) or verify")
        return None if mode == "0" else cls(cache_folder() / "packed", _max_bytes(), mode == "verify")


def _max_bytes() -> int:
    text = os.environ.get(SIZE_VARIABLE) or str(DEFAULT_GB)
    try:
        size_gb = float(text)
    except ValueError:
        size_gb = -1.0
    if not 0 < size_gb < 1e6:
        raise RequestError(f"${SIZE_VARIABLE} is {text!r:.60}: set it to a number of GB (1e9 bytes) above 0")
    return round(size_gb * 1e9)
