"""`training.fit`: the text of stage 1."""

from __future__ import annotations

from dataclasses import dataclass

from wrinklefree.config.ranges import number


@dataclass
class FitConfig:
    """Text that the SubLN gains are fitted on, and on which the report is computed."""

    tokens: int = number(4096, least=1)
    """Tokens for the activation statistics."""
    sequence_length_tokens: int = number(256, least=2)
    evaluation_tokens: int = number(1024, least=0)
    """Further tokens (not used for the fit) on which the loss is compared; 0: skip."""
