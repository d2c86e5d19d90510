"""`training.low_rank`: stage 2.5. The defaults of the method are those of wf_ptq.options."""

from __future__ import annotations

from dataclasses import dataclass

from wf_ptq.options import LowRankOptions
from wrinklefree.config.ranges import MAX_DAMPING, MAX_LENGTH_TOKENS, MAX_TOKENS, number

_OPTIONS = LowRankOptions()


@dataclass
class LowRankConfig:
    """A correction U V^T of every ternary linear, solved on text (wf_ptq.low_rank)."""

    rank: int = number(_OPTIONS.rank, least=1)
    """Columns of U and V; at most the smaller size of the smallest matrix. 16 are 0.74 bits per weight of
    SmolLM2-135M."""
    damping: float = number(_OPTIONS.damping, above=0, most=MAX_DAMPING)
    """Added to the diagonal of the inputs' second moments, as a share of its mean."""
    tokens: int = number(32768, least=1, most=MAX_TOKENS)
    """Of the text that the corrections are solved on."""
    sequence_length_tokens: int = number(512, least=2, most=MAX_LENGTH_TOKENS)
    evaluation_tokens: int = number(8192, least=0, most=MAX_TOKENS)
    """Further tokens on which the losses are compared; 0: skip."""
