"""What a tokenizer is made of, wherever it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import tokenizers

from wf_formats.errors import UserError


class TokenizerError(UserError, ValueError):
    """A tokenizer is missing, damaged or of an unsupported kind; the message says which and where."""


class TokenType(IntEnum):
    """`enum llama_token_type`, in `tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    """Special: no text."""
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


GGUF_ROLES = {
    "bos": ("bos", "bos_token"),
    "eos": ("eos", "eos_token"),
    "unknown": ("unk", "unk_token"),
    "padding": ("pad", "pad_token"),
}
"""`tokenizer.ggml.<key>_token_id` -> (gguf-py's word, key of tokenizer_config.json)."""


@dataclass(frozen=True)
class TokenizerSource:
    """What a tokenizer is made of."""

    backend: tokenizers.Tokenizer
    special_tokens: dict[str, str] = field(default_factory=dict)
    """`bos_token`, `eos_token`, ... as chat templates know them."""
    eos_ids: frozenset[int] = frozenset()
    """As the files state them."""
    chat_template: str | None = None
