"""`training.awq`: the stage of that name. The defaults of the method are those of wf_ptq.options."""

from __future__ import annotations

from dataclasses import dataclass

from wf_ptq.options import AwqOptions
from wrinklefree.config.ranges import MAX_LENGTH_TOKENS, MAX_TOKENS, MOST_MINUTES, number

_OPTIONS, _SEQUENCE_LENGTH_TOKENS = AwqOptions(), 512
_MOST_TRIED = 1000


@dataclass
class AwqConfig:
    """Scales and ranges of 4-bit weights chosen on text (wf_ptq.awq)."""

    tokens: int = number(32768, least=2, most=MAX_TOKENS)
    """Calibration tokens whose hidden states walk through the blocks."""
    sequence_length_tokens: int = number(_SEQUENCE_LENGTH_TOKENS, least=2, most=MAX_LENGTH_TOKENS)
    search_tokens: int = number(_OPTIONS.num_search_sequences * _SEQUENCE_LENGTH_TOKENS, least=1)
    """Of these, how many the whole attention and feed-forward part are tried on, with every exponent."""
    num_exponents: int = number(_OPTIONS.num_exponents, least=1, most=_MOST_TRIED)
    """Exponents of the scales that are tried, from 0 (plain rounding) on, evenly below 1."""
    num_clips: int = number(_OPTIONS.num_clips, least=1, most=20)
    """Ranges of a group's weights that are tried, each a twentieth less than the last; 1: none is cut."""
    evaluation_tokens: int = number(8192, least=0, most=MAX_TOKENS)
    """Further tokens on which the losses are compared; 0: skip."""
    minutes: float | None = number(None, above=0, most=MOST_MINUTES)
    """Time of the whole stage, from reading the model to the saved result, in all runs together: blocks are
    measured, and each searched on as many tokens as fit (`search_tokens` at most). None: on all."""
