"""The tokenizer of a model folder: whole, and of the model's vocabulary.

transformers builds a tokenizer of special tokens alone where tokenizer.json is missing, and a token beyond
the embedding matrix ends a run at its first use; both are refused here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bitnet_arch.errors import CheckpointError
from bitnet_arch.tokenizers import load_tokenizer
from wf_formats.file_names import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from wf_formats.system_errors import system_errors
from wf_formats.tokenizer.vocabulary import token_beyond

_FILES = (TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, "tokenizer.model", "vocab.json")


def tokenizer_of_folder(folder: Path) -> Any:
    """The tokenizer of a folder; None for one without any of its files.

    Raises:
        TokenizerError: tokenizer.json is missing or damaged.
    """
    return load_tokenizer(folder) if any((folder / name).is_file() for name in _FILES) else None


def save_tokenizer(tokenizer: Any, folder: Path | str) -> None:
    """Its files. Raises: OSError, where the library tells of a full disk in words only."""
    with system_errors(Path(folder) / TOKENIZER_FILE, Exception):
        tokenizer.save_pretrained(folder)


def check_vocabulary(folder: Path, tokenizer: Any, num_rows: int) -> None:
    """Compares a tokenizer (None is none) with the rows of the model's embedding matrix.

    Raises:
        CheckpointError: there are tokens that the model has no row for.
    """
    if tokenizer is None:
        return
    templates = str(tokenizer.chat_template or "")
    special = tokenizer.special_tokens_map.values()
    beyond = token_beyond(tokenizer.backend_tokenizer, num_rows, templates, special)
    if beyond is not None:
        raise CheckpointError(
            f"{folder}: the tokenizer has the token {beyond[0]!r} with id {beyond[1]}, and the model's "
            f"vocabulary has {num_rows} (rows of its embeddings): the tokenizer belongs to another model, or "
            "tokens were added without resizing the embeddings"
        )
