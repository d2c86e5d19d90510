"""`training.fit`: the text of stage 1."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class FitConfig:
    """Text that the SubLN gains are fitted on, and on which the report is computed."""

    tokens: int = 4096
    """Tokens for the activation statistics."""
    sequence_length_tokens: int = 256
    evaluation_tokens: int = 1024
    """Further tokens (not used for the fit) on which the loss is compared; 0: skip."""
