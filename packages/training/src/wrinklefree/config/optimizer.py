"""`optimizer`: one schema for each option of the group."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from wrinklefree.config.ranges import number


class MomentKind(StrEnum):
    """What AdamW keeps its moments in; weights, gradients and arithmetic are float32 with all."""

    float32 = "float32"
    """8 bytes a weight."""
    bf16 = "bf16"
    """4 bytes, rounded by chance."""
    int8 = "int8"
    """2 bytes and 2 a block of 256 weights that share exponents, rounded by chance."""


COMPACT_LEAST_WEIGHTS = 4096
"""Smaller tensors keep float32 moments with both of the others."""


@dataclass
class OptimizerConfig:
    """Fields of every optimizer. The peak learning rate is `training.learning_rate`."""

    weight_decay: float = number(0.0, least=0)
    """Decoupled; applied to matrices only, never to embeddings, norms and biases."""
    weight_decay_share: float = number(1.0, least=0, most=1)
    """Share of the run's steps with weight decay; BitNet's authors train the second half without."""
    beta1: float = number(0.9, least=0, below=1)
    beta2: float = number(0.95, least=0, below=1)
    eps: float = number(1e-8, least=1e-30, most=1)


@dataclass
class AdamWConfig(OptimizerConfig):
    """torch.optim.AdamW, or on the CPU one whose moments take less memory (compact_adamw.py)."""

    state: MomentKind = MomentKind.float32
    """Moments of tensors of 4,096 weights or more; smaller ones keep float32. bf16 and int8 need the package
    ternary-kernels and whole weights on the CPU (distributed=single or ddp)."""
    fused: bool = False
    """With float32: the fused kernel; other rounding than the default implementation."""


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
