"""What a tokenizer is made of, wherever it comes from (`tokenizer_gguf`, `tokenizer_folder`)."""

from __future__ import annotations

from dataclasses import dataclass, field

import tokenizers


class TokenizerError(ValueError):
    """A tokenizer is missing, damaged or of an unsupported kind; the message says which and where."""


@dataclass(frozen=True)
class TokenizerSource:
    """What a tokenizer is made of."""

    backend: tokenizers.Tokenizer
    special_tokens: dict[str, str] = field(default_factory=dict)
    """`bos_token`, `eos_token`, ... as chat templates know them."""
    eos_ids: frozenset[int] = frozenset()
    """As the files state them."""
    chat_template: str | None = None
