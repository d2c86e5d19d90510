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

_FILES = (TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, "tokenizer.model", "vocab.json")


def tokenizer_of_model(folder: Path, vocab_size: int) -> Any:
    """The tokenizer of a folder; None for one without any of its files.

    Args:
        vocab_size: rows of the embedding matrix.

    Raises:
        TokenizerError: tokenizer.json is missing or damaged.
        CheckpointError: there are tokens that the model has no row for.
    """
    if not any((folder / name).is_file() for name in _FILES):
        return None
    tokenizer = load_tokenizer(folder)
    _check_vocabulary(folder, tokenizer, vocab_size)
    return tokenizer


def _check_vocabulary(folder: Path, tokenizer: Any, vocab_size: int) -> None:
    """Tokens beyond the matrix are allowed where no text makes them (Gemma 3's placeholder for images)."""
    beyond = {token: i for token, i in tokenizer.get_vocab().items() if i >= vocab_size}
    added = tokenizer.added_tokens_decoder
    harmless = {token for token, i in beyond.items() if i in added and _is_unused(tokenizer, added[i])}
    if reachable := sorted(beyond.keys() - harmless, key=beyond.__getitem__):
        raise CheckpointError(
            f"{folder}: the tokenizer has the token {reachable[0]!r} with id {beyond[reachable[0]]}, and the "
            f"model's vocabulary has {vocab_size} (rows of its embeddings): the tokenizer belongs to another "
            "model, or tokens were added without resizing the embeddings"
        )


def _is_unused(tokenizer: Any, token: Any) -> bool:
    """Whether neither plain text nor the model's own formats make this added token."""
    templates = str(tokenizer.chat_template or "")
    named = tokenizer.special_tokens_map.values()
    return token.special and token.content not in templates and token.content not in named
