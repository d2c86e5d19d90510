"""`training.fit`: the text of stage 1."""

from __future__ import annotations

from dataclasses import dataclass

from wrinklefree.config.ranges import MAX_LENGTH_TOKENS, MAX_TOKENS, number


@dataclass
class FitConfig:
    """Text that the SubLN gains are fitted on, and on which the report is computed."""

    tokens: int = number(4096, least=1, most=MAX_TOKENS)
    """Tokens for the activation statistics."""
    sequence_length_tokens: int = number(256, least=2, most=MAX_LENGTH_TOKENS)
    evaluation_tokens: int = number(1024, least=0, most=MAX_TOKENS)
    """Further tokens (not used for the fit) on which the loss is compared; 0: skip."""
