"""Models of the Hugging Face hub, by repository id: the files of a model, weights as safetensors only.

What cannot be reached (no network, no such repository, no permission) is one line with the fix.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError

from bitnet_arch.errors import SourceError
from wf_formats.file_names import CONFIG_FILE

_SMALL_FILES = ["*.json", "*.jinja", "tokenizer.model", "merges.txt"]
_FILES = [*_SMALL_FILES, "*.safetensors"]
_NOT = ["*/*.json", "*/*.safetensors", "consolidated*"]
"""Subfolders (but of chat templates) and Mistral's own layout hold the same weights once more."""


def config_file(repository: str) -> Path:
    """config.json of a repository, fetched unless the cache has it; raises SourceError."""
    return Path(_asked(repository, lambda: huggingface_hub.hf_hub_download(repository, CONFIG_FILE)))


def small_files(repository: str) -> Path:
    """Folder with everything but the weights, fetched unless the cache has it; raises SourceError."""
    return _fetched(repository, _SMALL_FILES)


def snapshot(repository: str) -> Path:
    """Folder of a repository's model files, fetched unless the cache has them; raises SourceError."""
    return _fetched(repository, _FILES)


def _fetched(repository: str, patterns: list[str]) -> Path:
    return Path(
        _asked(
            repository,
            lambda: huggingface_hub.snapshot_download(
                repository, allow_patterns=patterns, ignore_patterns=_NOT
            ),
        )
    )


def _asked(repository: str, ask: Callable[[], str]) -> str:
    try:
        return ask()
    except (OSError, EntryNotFoundError, ValueError) as error:  # ValueError: no repository id
        reason = " ".join(str(error).split())
        raise SourceError(
            f"hub model {repository}: {reason:.300} (check the id, the network and `hf auth login`, or "
            "load a folder with model.source=path)"
        ) from error
