"""`optimizer`: one schema for each option of the group."""

from __future__ import annotations

from dataclasses import dataclass

from wrinklefree.config.ranges import number


@dataclass
class OptimizerConfig:
    """Fields of every optimizer. The peak learning rate is `training.learning_rate`."""

    weight_decay: float = number(0.0, least=0)
    """Decoupled; applied to matrices only, never to embeddings, norms and biases."""
    weight_decay_share: float = number(1.0, least=0, most=1)
    """Share of the run's steps with weight decay; BitNet's authors train the second half without."""
    beta1: float = number(0.9, least=0, below=1)
    beta2: float = number(0.95, least=0, below=1)
    eps: float = number(1e-8, above=0)


@dataclass
class AdamWConfig(OptimizerConfig):
    """torch.optim.AdamW."""

    fused: bool = False
    """The fused kernel; other rounding than the default implementation."""


@dataclass
class AdamW8bitConfig(OptimizerConfig):
    """bitsandbytes AdamW with 8-bit blockwise state (embeddings keep 32-bit state)."""

    min_8bit_size: int = number(4096, least=0)
    """Tensors with fewer elements keep 32-bit state."""


@dataclass
class MuonConfig(OptimizerConfig):
    """torch.optim.Muon for block matrices, AdamW for embeddings, head, norms and biases."""

    momentum: float = number(0.95, least=0, below=1)
    nesterov: bool = True
    newton_schulz_steps: int = number(5, least=1, below=100)
    match_adamw_rms: bool = True
    """Scale updates to the RMS of AdamW's, so that one learning rate fits both."""
