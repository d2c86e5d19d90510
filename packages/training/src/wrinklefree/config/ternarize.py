"""`training.ternarize`: stage 1.5. The defaults of the method are those of wf_ptq.options."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from wf_ptq.options import BlockOptions, DistilOptions


class ComputeDtype(StrEnum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


_BLOCK, _DISTIL = BlockOptions(), DistilOptions()
MIN_TERNARIZE_TOKENS = 512
"""Fewer calibration tokens say nothing about a matrix's inputs."""


@dataclass
class TernarizeConfig:
    """Ternary codes and scales chosen on text (wf_ptq)."""

    tokens: int = 65536
    """Calibration tokens whose hidden states walk through the blocks."""
    sequence_length_tokens: int = 512
    moment_tokens: int = _BLOCK.num_moment_sequences * sequence_length_tokens
    """Of these, how many the second moments of the linears' inputs are taken from."""
    num_sweeps: int = _BLOCK.solve.num_sweeps
    """Sweeps of coordinate descent over each matrix."""
    damping: float = _BLOCK.solve.damping
    """Added to the diagonal of the second moments, as a share of its mean."""
    refine_steps: int = _BLOCK.refine.num_steps
    """Gradient steps on each block; 0: closed form only."""
    refine_batch_size: int = _BLOCK.refine.batch_size
    """Sequences per refinement step. Many small steps do better than few large ones."""
    latent_rate: float = _BLOCK.refine.rates.latent
    """Peak step of a latent weight in the refinement, as a share of the mean scale of its matrix."""
    scale_rate: float = _BLOCK.refine.rates.scale
    """The same for scales, in the refinement and the distillation."""
    vector_rate: float = _BLOCK.refine.rates.vector
    """Peak step of gains and biases, as a share of their mean magnitude."""
    distil_steps: int = _DISTIL.num_steps
    """Gradient steps on the scales and gains of all blocks together, on further text; 0: none."""
    distil_batch_size: int = _DISTIL.batch_size
    """Sequences per distillation step."""
    logit_tokens: int = _DISTIL.logit_tokens
    """Positions per distillation step whose predictions are compared."""
    save_every_steps: int = 20
    """Distillation steps between saved states."""
    evaluation_tokens: int = 8192
    """Further tokens on which the losses are compared; 0: skip."""
    dtype: ComputeDtype = ComputeDtype.auto
    """Dtype of products; auto: the faster one on this machine."""
