"""`training.ternarize`: stage 1.5. The defaults of the method are those of wf_ptq.options."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from wf_ptq.options import BlockOptions, DistilOptions
from wrinklefree.config.ranges import (
    MAX_DAMPING,
    MAX_LENGTH_TOKENS,
    MAX_SEQUENCES,
    MAX_STEPS,
    MAX_TOKENS,
    MOST_MINUTES,
    number,
)


class CalibrationPrecision(StrEnum):
    """`Precision` of stages 2 and 3, or the one that this machine computes fastest."""

    auto = "auto"
    float32 = "float32"
    bf16 = "bf16"
    int8 = "int8"


_SEQUENCE_LENGTH_TOKENS = 512
_BLOCK, _DISTIL = BlockOptions(), DistilOptions()
MIN_TERNARIZE_TOKENS = 512
"""Fewer calibration tokens say nothing about a matrix's inputs."""


@dataclass
class TernarizeConfig:
    """Ternary codes and scales chosen on text (wf_ptq)."""

    keep_codes: bool = False
    """The start has been through this stage, and its codes stay: scales and gains are distilled further. On
    other text than before with another `seed`."""
    tokens: int = number(65536, least=MIN_TERNARIZE_TOKENS, most=MAX_TOKENS)
    """Calibration tokens whose hidden states walk through the blocks."""
    sequence_length_tokens: int = number(_SEQUENCE_LENGTH_TOKENS, least=2, most=MAX_LENGTH_TOKENS)
    moment_tokens: int = number(_BLOCK.num_moment_sequences * _SEQUENCE_LENGTH_TOKENS, least=1)
    """Of these, how many the second moments of the linears' inputs are taken from."""
    num_sweeps: int = number(_BLOCK.solve.num_sweeps, least=0, most=MAX_STEPS)
    """Sweeps of coordinate descent over each matrix."""
    shrinkage: float = number(_BLOCK.solve.shrinkage, least=0, below=1)
    """Share of the second moments off their diagonal that is taken away."""
    damping: float = number(_BLOCK.solve.damping, above=0, most=MAX_DAMPING)
    """Added to the diagonal of the second moments, as a share of its mean."""
    refine_steps: int = number(_BLOCK.refine.num_steps, least=0, most=MAX_STEPS)
    """Gradient steps on each block; 0: closed form only."""
    refine_batch_size: int = number(_BLOCK.refine.batch_size, least=1, most=MAX_SEQUENCES)
    """Sequences per refinement step. Many small steps do better than few large ones."""
    latent_rate: float = number(_BLOCK.refine.rates.latent, above=0, most=1)
    """Peak step of a latent weight in the refinement, as a share of the mean scale of its matrix."""
    scale_rate: float = number(_BLOCK.refine.rates.scale, above=0, most=1)
    """The same for scales, in the refinement and the distillation."""
    vector_rate: float = number(_BLOCK.refine.rates.vector, above=0, most=1)
    """Peak step of gains and biases, as a share of their mean magnitude."""
    embedding_rate: float = number(_DISTIL.rates.embedding, least=0, most=1)
    """Peak step of the embeddings and the output head in the distillation, likewise. 0: they stay as they
    are, which saves 16 bytes for each of their numbers and is better on text of many kinds; 0.012 where the
    model will read what it is calibrated on."""
    distil_steps: int = number(_DISTIL.num_steps, least=0, most=MAX_STEPS)
    """Gradient steps on scales, gains and embeddings together, on further text; 0: none."""
    distil_batch_size: int = number(_DISTIL.batch_size, least=1, most=MAX_SEQUENCES)
    """Sequences per distillation step."""
    logit_tokens: int = number(_DISTIL.logit_tokens, least=1)
    """Positions per distillation step whose predictions are compared."""
    save_every_steps: int = number(20, least=1)
    """Distillation steps between saved states."""
    evaluation_tokens: int = number(8192, least=0, most=MAX_TOKENS)
    """Further tokens on which the losses are compared; 0: skip."""
    minutes: float | None = number(None, above=0, most=MOST_MINUTES)
    """Time of the whole stage, from loading the models to the saved result, in all runs together. The
    machine is measured and the steps are planned into it: `refine_steps` and `distil_steps` are then the
    most (stages/budget.py). None: as many as configured."""
    distil_share: float = number(1.0, above=0, most=1)
    """Of the time in `minutes` that the blocks leave, what the distillation takes; the rest is left over, for
    a stage that comes after this one."""
    precision: CalibrationPrecision = CalibrationPrecision.auto
    """Of products, as `training.precision` of stage 2; auto: the fastest one on this machine."""
