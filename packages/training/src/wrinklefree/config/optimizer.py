"""`optimizer`: one schema for each option of the group."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class OptimizerConfig:
    """Fields of every optimizer. The peak learning rate is `training.learning_rate`."""

    weight_decay: float = 0.0
    """Decoupled; applied to matrices only, never to embeddings, norms and biases."""
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8


@dataclass
class AdamWConfig(OptimizerConfig):
    """torch.optim.AdamW."""

    fused: bool = False
    """The fused kernel; other rounding than the default implementation."""


@dataclass
class AdamW8bitConfig(OptimizerConfig):
    """bitsandbytes AdamW with 8-bit blockwise state (embeddings keep 32-bit state)."""

    min_8bit_size: int = 4096
    """Tensors with fewer elements keep 32-bit state."""


@dataclass
class MuonConfig(OptimizerConfig):
    """torch.optim.Muon for block matrices, AdamW for embeddings, head, norms and biases."""

    momentum: float = 0.95
    nesterov: bool = True
    newton_schulz_steps: int = 5
    match_adamw_rms: bool = True
    """Scale updates to the RMS of AdamW's, so that one learning rate fits both."""
