"""What the steps of an engine have done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Counters:
    """What the steps so far have done."""

    steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    guessed_tokens: int = 0
    accepted_tokens: int = 0
    decoding_passes: int = 0
    last_step_s: float = 0.0
    step_s: float = 0.0
    forward_s: float = 0.0
    sample_s: float = 0.0
    text_s: float = 0.0
