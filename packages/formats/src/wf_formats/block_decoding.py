"""How the text of a block-diffusion model is drawn (docs/diffusion.md, "Decoding")."""

from __future__ import annotations

from dataclasses import dataclass

from wf_formats.errors import RequestError


@dataclass(frozen=True)
class BlockDecoding:
    """How much of a block one pass draws.

    Raises:
        RequestError: a threshold beyond a probability, or an empty sub-block.
    """

    threshold: float = 0.9
    """Tokens whose likeliest value is more probable than this are drawn together; 1 draws one a pass."""
    sub_block: int = 8
    """Tokens of a block that are drawn before those after them."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise RequestError(f"the threshold is {self.threshold!r}: it is a probability, in [0, 1]")
        if self.sub_block < 1:
            raise RequestError(f"a sub-block has {self.sub_block!r} tokens: it needs at least 1")
