"""What a tokenizer is made of, wherever it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum

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


class Pieces(Enum):
    """How tokens spell text."""

    BYTE_LEVEL = "byte-level"
    """GPT-2's: each byte of UTF-8 is a character of an alphabet of 256."""
    SENTENCEPIECE = "SentencePiece"
    """Characters, a space is U+2581; what has no token is spelled in tokens <0x00> to <0xFF>."""


@dataclass(frozen=True)
class KnownTokens:
    """What takes long to find out about a tokenizer."""

    table: Sequence[bytes]
    """`token_bytes` of it."""
    num_model_tokens: int
    """Highest id and one of the tokens that plain text may become."""
    fits_rows: int
    """Rows of an embedding that has one for every token that anything makes (`vocabulary.token_beyond`)."""


@dataclass(frozen=True)
class TokenizerSource:
    """What a tokenizer is made of."""

    backend: tokenizers.Tokenizer
    special_tokens: dict[str, str] = field(default_factory=dict)
    """`bos_token`, `eos_token`, ... as chat templates know them."""
    eos_ids: frozenset[int] = frozenset()
    """As the files state them."""
    chat_template: str | None = None
    pieces: Pieces = Pieces.BYTE_LEVEL
    puts_space_first: bool = False
    """Whether a space is put before a text on encoding, and taken away from the whole on decoding."""
    known: KnownTokens | None = None
    """What was found out about it before; None: nothing."""
