"""SHA-256 of files and models: by it a measurement says which model it measured."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from wf_formats.file_names import CONFIG_FILE
from wf_formats.safetensors_file import open_folder

_BLOCK_BYTES = 1 << 20


def file_sha256(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_sha256(path: Path) -> str:
    """Of a GGUF file, or of a folder's config.json and weight files one after the other.

    Cards, tokenizers and records do not count: the same weights stay the same model.

    Raises:
        LoadError: a folder without weights; OSError: a file cannot be read.
    """
    if path.is_file():
        return file_sha256(path)
    digest = hashlib.sha256((path / CONFIG_FILE).read_bytes())
    for weights in sorted(set(open_folder(path).paths.values())):
        _add(digest, weights)
    return digest.hexdigest()


def _add(digest: Any, path: Path) -> None:
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
