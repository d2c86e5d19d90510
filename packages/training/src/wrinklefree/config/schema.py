"""Dataclass schemas of the training application. Imports no torch, so reading them is cheap.

YAML files only fill in values; a key that is not here is refused by name. Enums stand where a
Literal would (OmegaConf refuses Literal), and no schema is frozen (that breaks overrides).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from omegaconf import MISSING

from wf_formats.packaged import ModelSource

MIN_TERNARIZE_TOKENS = 512
"""Fewer calibration tokens say nothing about a matrix's inputs."""


class Stage(StrEnum):
    """Stages of this application, in the order in which a model passes them."""

    stage1 = "stage1"
    stage1_5 = "stage1_5"
    stage1_9 = "stage1_9"
    stage2 = "stage2"


class ScheduleKind(StrEnum):
    constant = "constant"
    cosine = "cosine"
    wsd = "wsd"


class StepUnit(StrEnum):
    steps = "steps"
    tokens = "tokens"


class LayerWeighting(StrEnum):
    uniform = "uniform"
    progressive = "progressive"


class DistributedKind(StrEnum):
    single = "single"
    ddp = "ddp"
    fsdp = "fsdp"


class Dtype(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"


class ComputeDtype(StrEnum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


class Precision(StrEnum):
    """Lightning precisions that keep float32 master weights."""

    fp32 = "32-true"
    bf16_mixed = "bf16-mixed"


class ProgressBar(StrEnum):
    auto = "auto"
    rich = "rich"
    tqdm = "tqdm"
    none = "none"


@dataclass
class TeacherConfig:
    """The dense model that `layerwise` compares with. Unset: the model that was converted."""

    source: ModelSource | None = None
    """Where the teacher comes from; null means the source and name of `model`."""
    name: str | None = None
    """Hub id or folder of the teacher."""
    dtype: Dtype = Dtype.float32
    """Dtype of the frozen teacher in memory."""


@dataclass
class ModelConfig:
    source: ModelSource = MISSING
    """hub (Hugging Face id), path (folder) or packaged (SmolLM2-135M-Instruct)."""
    name: str | None = None
    """Hub id or folder; null for the packaged model."""
    scheme: str = "tensor"
    """Scale granularity of the ternary weights: tensor, group64 or group128."""
    sub_norm: bool = True
    """Insert calibrated SubLN before the attention output and down projections (needs tensor)."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)


class TextUnit(StrEnum):
    """What one document is in a .txt file."""

    file = "file"
    paragraph = "paragraph"
    line = "line"


@dataclass
class SourceConfig:
    """One text source; mirrors data_handler.SourceConfig, which checks the values."""

    kind: ModelSource = MISSING
    name: str = MISSING
    """Name in logs, weights and the saved data state."""
    location: Any = None
    """path: a path, glob or list of them; hub: dataset id; packaged: name of the text."""
    text_column: str = "text"
    weight: float = 1.0
    """Share of tokens drawn from this source, relative to the other weights."""
    split: str = "train"
    subset: str | None = None
    repeat: bool = True
    """Start over at the end of the source instead of stopping."""
    text_unit: TextUnit = TextUnit.file


@dataclass
class DataConfig:
    sources: list[SourceConfig] = field(default_factory=list)
    num_workers: int = 0
    """Worker processes per rank that tokenize and pack; 0: in the training process."""


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


@dataclass
class DistributedConfig:
    kind: DistributedKind = DistributedKind.single
    accelerator: str = "auto"
    """Lightning accelerator: auto, cpu, gpu."""
    devices: int = 1
    """Processes per node."""
    num_nodes: int = 1
    precision: Precision = Precision.fp32
    backend: str | None = None
    """Process group backend; null: nccl on GPUs, gloo on CPUs."""


@dataclass
class WandbConfig:
    project: str = "wrinklefree"
    entity: str | None = None
    mode: str = "online"
    """online, offline or disabled."""


@dataclass
class LoggingConfig:
    every_steps: int = 1
    """Steps between rows of metrics.csv (and of the other loggers)."""
    console_every_steps: int = 10
    """Steps between log lines on the console."""
    progress_bar: ProgressBar = ProgressBar.auto
    """auto: rich on a terminal, none elsewhere (the log lines tell the progress)."""
    csv: bool = True
    tensorboard: bool = False
    wandb: bool = False
    wandb_options: WandbConfig = field(default_factory=WandbConfig)


@dataclass
class ObjectiveConfig:
    """Fields of every objective."""

    weight: float = 1.0
    """Factor in the total loss; 0 switches the objective off (and its teacher, if no one else asks)."""


@dataclass
class ContinuePretrainConfig(ObjectiveConfig):
    """Next-token cross-entropy."""

    chunk_tokens: int = 512
    """Tokens whose logits exist at the same time (memory: chunk_tokens x vocabulary x 4 bytes)."""


@dataclass
class LayerwiseConfig(ObjectiveConfig):
    """Normalized MSE between hidden states of student and teacher."""

    layer_weighting: LayerWeighting = LayerWeighting.progressive
    """uniform: every layer alike; progressive: layer i of n counts i/n as much as the last."""


@dataclass
class ScheduleConfig:
    kind: ScheduleKind = ScheduleKind.cosine
    unit: StepUnit = StepUnit.steps
    """Unit of a warmup and decay of 1 or more; tokens are rounded up to whole steps."""
    warmup: float = 0
    """Length of the linear rise from 0 to the peak: below 1 a share of the run, else whole units."""
    decay: float = 0
    """wsd only: length of the final linear fall, given as `warmup` is."""
    min_ratio: float = 0.1
    """Learning rate at the end over the peak."""


@dataclass
class CalibrationConfig:
    """stage1: text that sets the SubLN gains and that the report is computed on."""

    tokens: int = 4096
    """Tokens for the activation statistics."""
    sequence_length_tokens: int = 256
    evaluation_tokens: int = 1024
    """Further tokens (not used for calibration) on which the loss is compared; 0: skip."""


@dataclass
class TernarizeConfig:
    """stage1_5: ternary codes and scales chosen on text (wf_ptq)."""

    tokens: int = 65536
    """Calibration tokens whose hidden states walk through the blocks."""
    sequence_length_tokens: int = 512
    moment_tokens: int = 32768
    """Of these, how many the second moments of the linears' inputs are taken from."""
    num_sweeps: int = 4
    """Sweeps of coordinate descent over each matrix."""
    damping: float = 0.003
    """Added to the diagonal of the second moments, as a share of its mean."""
    refine_steps: int = 128
    """Gradient steps on each block; 0: closed form only."""
    refine_batch_size: int = 1
    """Sequences per refinement step. Many small steps do better than few large ones."""
    latent_rate: float = 0.01
    """Peak step of a latent weight in the refinement, as a share of the mean scale of its matrix."""
    scale_rate: float = 0.007
    """The same for scales, in the refinement and the distillation."""
    vector_rate: float = 0.005
    """Peak step of gains and biases, as a share of their mean magnitude."""
    distil_steps: int = 400
    """Gradient steps on the scales and gains of all blocks together, on further text; 0: none."""
    distil_batch_size: int = 1
    """Sequences per distillation step."""
    logit_tokens: int = 512
    """Positions per distillation step whose predictions are compared."""
    save_every_steps: int = 20
    """Distillation steps between saved states."""
    evaluation_tokens: int = 8192
    """Further tokens on which the losses are compared; 0: skip."""
    dtype: ComputeDtype = ComputeDtype.auto
    """Dtype of products; auto: the faster one on this machine."""


@dataclass
class ZClipConfig:
    """Adaptive clipping of the gradient norm (Kumar et al. 2025, arXiv 2504.02507)."""

    enabled: bool = True
    alpha: float = 0.97
    """Decay of the moving mean and variance of the norm."""
    z_threshold: float = 2.5
    warmup_steps: int = 25
    """Steps that initialize the statistics."""
    max_norm: float | None = 1.0
    """Fixed bound that holds too, in the warmup as well; null: none."""


@dataclass
class CheckpointConfig:
    every_steps: int = 500
    """Optimizer steps between checkpoints; 0: only on a signal."""
    keep_last: int = 2


@dataclass
class TrainingConfig:
    stage: Stage = MISSING
    accept_from: list[Stage] = field(default_factory=list)
    """Previous stages to start from, best first. Empty: the dense model."""
    start_from: str | None = None
    """A checkpoint folder to start from instead of the same experiment's previous stage."""
    max_steps: int | None = None
    """Optimizer steps. Exactly one of max_steps and max_tokens is set."""
    max_tokens: int | None = None
    sequence_length_tokens: int = 1024
    batch_size: int = 4
    """Sequences per forward pass and rank."""
    accumulate_steps: int = 1
    """Forward passes per optimizer step."""
    learning_rate: float = 3e-4
    """Peak learning rate."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    objectives: dict[str, Any] = field(default_factory=dict)
    """Objective name -> its options; typed by the registry when the configuration is composed."""
    lambda_warmup_steps: int = 0
    """Steps over which quantization fades in, from 0 (full precision) to 1; 0: fully quantized."""
    zclip: ZClipConfig = field(default_factory=ZClipConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    ternarize: TernarizeConfig = field(default_factory=TernarizeConfig)
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""


@dataclass
class ResumeConfig:
    allow_previous: bool = False
    """Step back to an older checkpoint when the newest is damaged."""


@dataclass
class TrainConfig:
    experiment: str = "default"
    """Names the run: <output_dir>/<experiment>/<stage>."""
    output_dir: str = "outputs"
    seed: int = 0
    deterministic: bool = True
    """Refuse nondeterministic operations; needed for bit-equal resumption."""
    num_threads: int | None = None
    """CPU threads of torch; null: torch's choice."""
    force: bool = False
    """Run again although a run is there; the old run folder is moved aside."""
    model: ModelConfig = MISSING
    data: DataConfig = MISSING
    optimizer: OptimizerConfig = MISSING
    distributed: DistributedConfig = MISSING
    logging: LoggingConfig = MISSING
    training: TrainingConfig = MISSING
    resume: ResumeConfig = field(default_factory=ResumeConfig)
