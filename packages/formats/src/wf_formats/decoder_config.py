"""What the decoder has to know about a model besides its tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

Activation = Literal["silu", "relu2"]
ACTIVATIONS: tuple[Activation, ...] = ("silu", "relu2")

MIN_EPS, MAX_EPS = 1e-12, 1e-2
"""Of norms; models have 1e-8 to 1e-3."""


@dataclass(frozen=True)
class DecoderConfig:
    """Shape and constants of a decoder-only model of the Llama kind.

    QK-norm, sub-norms and biases have no entry: a layer has them if its tensors are there.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    activation: Activation
    rope_inverse_frequencies: tuple[float, ...]
    """[head_dim / 2], scaling applied; frequency i turns elements i and i + head_dim / 2 of a head."""
    context_tokens: int
    """Positions the model was made for."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"{field.name} is {value!r}, not a positive whole number")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"{self.num_heads} heads do not divide among {self.num_kv_heads} kv heads")
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd, rotary positions need pairs")
        if not MIN_EPS <= self.rms_norm_eps <= MAX_EPS:
            raise ValueError(f"rms_norm_eps is {self.rms_norm_eps}, not between {MIN_EPS} and {MAX_EPS}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation {self.activation!r} is not one of {', '.join(ACTIVATIONS)}")
        frequencies = self.rope_inverse_frequencies
        if len(frequencies) != self.head_dim // 2:
            raise ValueError(f"{len(frequencies)} rotary frequencies for heads of {self.head_dim}")
        if not all(math.isfinite(frequency) and frequency >= 0 for frequency in frequencies):
            raise ValueError(f"rotary frequencies {frequencies} are not all finite and positive")
