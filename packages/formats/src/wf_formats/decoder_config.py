"""What the decoder has to know about a model besides its tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from wf_formats.diffusion import BlockDiffusion
from wf_formats.rope import Rope

Activation = Literal["silu", "relu2", "gelu_tanh"]
ACTIVATIONS: tuple[Activation, ...] = ("silu", "relu2", "gelu_tanh")


@dataclass(frozen=True)
class LayerAttention:
    """What attention does in one layer."""

    rope: Rope | None
    """None: positions are not encoded (NoPE)."""
    window: int | None = None
    """Tokens that a token sees, itself included; None: all before it."""


MIN_EPS, MAX_EPS = 1e-12, 1e-2
"""Of norms; models have 1e-8 to 1e-3."""


@dataclass(frozen=True)
class DecoderConfig:
    """Shape and constants of a decoder-only model of the Llama kind.

    QK-norm, sub-norms, output norms and biases have no entry: a layer has them if its tensors are there.
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
    attention: tuple[LayerAttention, ...]
    """[num_layers]"""
    attention_scale: float
    """Multiplies the products of queries and keys."""
    context_tokens: int
    """Positions the model was made for."""
    embedding_scale: float = 1.0
    diffusion: BlockDiffusion | None = None
    """None: an autoregressive model."""

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
        if len(self.attention) != self.num_layers:
            raise ValueError(f"attention of {len(self.attention)} layers for {self.num_layers}")
        for layer in set(self.attention):
            self._check_layer(layer)
        for name in ("attention_scale", "embedding_scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}, not a positive number")
        if self.diffusion is not None:
            self._check_blocks(self.diffusion)

    def _check_layer(self, layer: LayerAttention) -> None:
        if layer.rope is not None and len(layer.rope.inverse_frequencies) > self.head_dim // 2:
            count = len(layer.rope.inverse_frequencies)
            raise ValueError(f"{count} rotary frequencies for heads of {self.head_dim}")
        if layer.window is not None and layer.window < 1:
            raise ValueError(f"a window of {layer.window} tokens")

    def _check_blocks(self, diffusion: BlockDiffusion) -> None:
        diffusion.check_fits(self.vocab_size, self.context_tokens)
        for index, layer in enumerate(self.attention):
            if layer.window is not None and layer.window < self.context_tokens:
                raise ValueError(
                    f"layer {index} sees a window of {layer.window} tokens; block diffusion has none"
                )
