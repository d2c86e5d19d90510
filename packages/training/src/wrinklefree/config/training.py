"""What the group `training` has for several stages; a stage's own schema stands beside the stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from omegaconf import MISSING

from wrinklefree.config.curriculum import PhaseConfig
from wrinklefree.config.mixture import MixtureConfig
from wrinklefree.config.ranges import (
    MAX_LENGTH_TOKENS,
    MAX_SEQUENCES,
    MAX_STEPS,
    MAX_TOKENS,
    MOST_MINUTES,
    number,
)


class ScheduleKind(StrEnum):
    constant = "constant"
    cosine = "cosine"
    wsd = "wsd"


class StepUnit(StrEnum):
    steps = "steps"
    tokens = "tokens"


class Precision(StrEnum):
    """Of the products; master weights, their gradients and the optimizer are float32 with all."""

    float32 = "float32"
    bf16 = "bf16"
    """Head, attention and the backward pass of quantized layers in bfloat16."""
    int8 = "int8"
    """As bf16, and the backward pass of quantized layers in int8."""
    fp8_experimental = "fp8_experimental"
    """As bf16, and the backward pass of quantized layers in fp8; on GPUs that have it, or slowly on a CPU."""


class Trained(StrEnum):
    """Which parameters are trained."""

    all = "all"
    low_rank = "low_rank"
    """U and V of the low-rank corrections (stage 2.5); everything else stays as it is, to the bit."""


@dataclass
class ScheduleConfig:
    kind: ScheduleKind = ScheduleKind.cosine
    unit: StepUnit = StepUnit.steps
    """Unit of a warmup and decay of 1 or more; tokens are rounded up to whole steps."""
    warmup: float = 0
    """Length of the linear rise from 0 to the peak: below 1 a share of the run, else whole units."""
    decay: float = 0
    """wsd only: length of the final linear fall, given as `warmup` is."""
    min_ratio: float = number(0.1, least=0, most=1)
    """Learning rate at the end over the peak."""


@dataclass
class ZClipConfig:
    """Adaptive clipping of the gradient norm (Kumar et al. 2025, arXiv 2504.02507)."""

    enabled: bool = True
    alpha: float = number(0.97, least=0, below=1)
    """Decay of the moving mean and variance of the norm."""
    z_threshold: float = number(2.5, above=0)
    warmup_steps: int = number(25, least=1)
    """Steps that initialize the statistics."""
    max_norm: float | None = number(1.0, above=0)
    """Fixed bound that holds too, in the warmup as well; null: none."""


@dataclass
class QkClipConfig:
    """Bound on attention logits (QK-clip of MuonClip; Kimi K2, arXiv 2507.20534): qk_clip.py."""

    threshold: float | None = number(None, above=0)
    """Largest logit of a head; where a step shows a larger one, queries and keys of the head shrink. null:
    off."""
    every_steps: int = number(1, least=1)
    """Steps from one look at the logits to the next."""


@dataclass
class CheckpointConfig:
    every_steps: int = number(500, least=0)
    """Optimizer steps between checkpoints; 0: only on a signal."""
    keep_last: int = number(2, least=1)
    in_background: bool = False
    """Training goes on while a checkpoint is written, from a copy in host memory; with distributed=fsdp."""
    upload: str = ""
    """Where checkpoints and the result are uploaded: gs://BUCKET/PREFIX, s3://BUCKET/PREFIX or a path
    (wf_stores); empty: nowhere. A run folder without a checkpoint goes on from the newest one there."""
    upload_keep_last: int | None = number(None, least=1)
    """Checkpoints to keep there; null: all. The result stays."""


@dataclass
class StageConfig:
    """Keys of every stage."""

    stage: str = MISSING
    """Name of the stage and of its run folder; given by the option of the group `training`."""


@dataclass
class ContinuingConfig(StageConfig):
    """Keys of a stage that goes on from the result of another."""

    accept_from: list[str] = field(default_factory=list)
    """Previous stages to start from, best first."""
    start_from: str | None = None
    """A checkpoint to start from instead of the same experiment's previous stage: a folder, or an upload
    (gs://BUCKET/PREFIX/NAME, s3://BUCKET/PREFIX/NAME)."""


@dataclass
class GradientConfig(ContinuingConfig):
    """Keys of a stage that trains by gradients. The peak learning rate is here, not in `optimizer`."""

    max_steps: int | None = number(None, least=1, most=MAX_STEPS)
    """Optimizer steps. Exactly one of max_steps, max_tokens and minutes is set."""
    max_tokens: int | None = number(None, least=1, most=MAX_TOKENS)
    minutes: float | None = number(None, above=0, most=MOST_MINUTES)
    """Time of the whole stage, from loading the models to the saved result, in all runs together: its steps
    are measured, and as many planned as fit (stages/step_pace.py)."""
    sequence_length_tokens: int = number(1024, least=2, most=MAX_LENGTH_TOKENS)
    batch_size: int = number(4, least=1, most=MAX_SEQUENCES)
    """Sequences per forward pass and rank."""
    accumulate_steps: int = number(1, least=1, most=MAX_SEQUENCES)
    """Forward passes per optimizer step."""
    learning_rate: float = number(3e-4, least=0, most=100)
    """Peak learning rate."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    objectives: dict[str, Any] = field(default_factory=dict)
    """Objective name -> its options; typed by the registry when the configuration is composed."""
    curriculum: list[PhaseConfig] = field(default_factory=list)
    """Phases of the run with weights of their own; empty: the objectives' own weights throughout."""
    trained: Trained = Trained.all
    """all, or low_rank: the low-rank corrections alone."""
    lambda_warmup_steps: int = number(0, least=0)
    """Steps over which quantization fades in, from 0 (full precision) to 1; 0: fully quantized."""
    ema_decay: float | None = number(None, above=0, below=1)
    """The result is a moving average of the weights with this decay a step; null: the last weights."""
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    """Whether the weights of `data.sources` change during the run, and by what."""
    zclip: ZClipConfig = field(default_factory=ZClipConfig)
    qk_clip: QkClipConfig = field(default_factory=QkClipConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    precision: Precision = Precision.float32
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
