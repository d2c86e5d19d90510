"""What a block-diffusion model says of itself: which tokens it denoises together (docs/diffusion.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from wf_formats.errors import LoadError

SETTINGS_KEY = "block_diffusion"
"""Of a config in memory and of a config.json: the fields of `BlockDiffusion`."""
MASK_TOKEN = "<|mask|>"
"""What the tokenizer calls the token that stands for an unknown one."""


@dataclass(frozen=True)
class BlockDiffusion:
    """Token i of a document, counted from 0, is in block i // block_size. It sees all tokens of earlier
    blocks and of its own, those after it too, as far as they are known; the others are mask tokens there.
    """

    block_size: int
    """Tokens."""
    mask_token_id: int
    """Stands for an unknown token; never part of a text."""
    token_shift: bool = True
    """Logits at token i - 1 predict token i, as those of an autoregressive model do, and the first token of a
    block follows from the finished block before it; False: logits at token i, which is masked, predict it."""

    def __post_init__(self) -> None:
        for name, least in (("block_size", 1), ("mask_token_id", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise LoadError(f"{SETTINGS_KEY}.{name} is {value!r}, not a whole number of at least {least}")
        if not isinstance(self.token_shift, bool):
            raise LoadError(f"{SETTINGS_KEY}.token_shift is {self.token_shift!r}, not true or false")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> BlockDiffusion | None:
        """Of a config.json's contents; None: an autoregressive model.

        Raises: LoadError for entries that are missing, unknown or impossible.
        """
        entries = settings.get(SETTINGS_KEY)
        if entries is None:
            return None
        if not isinstance(entries, Mapping):
            raise LoadError(f"{SETTINGS_KEY} is {entries!r}, not an object")
        try:
            return cls(**entries)
        except TypeError as error:
            known = ", ".join(cls.__dataclass_fields__)
            raise LoadError(f"{SETTINGS_KEY} has {sorted(entries)}; its entries are {known}") from error

    def to_settings(self) -> dict[str, Any]:
        """The value of `SETTINGS_KEY`."""
        return asdict(self)
