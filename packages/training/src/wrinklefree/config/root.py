"""The whole configuration of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from omegaconf import MISSING

from wrinklefree.config.data import DataConfig
from wrinklefree.config.distributed import DistributedConfig
from wrinklefree.config.logging import LoggingConfig
from wrinklefree.config.model import ModelConfig
from wrinklefree.config.optimizer import OptimizerConfig
from wrinklefree.config.ranges import number
from wrinklefree.config.training import StageConfig


class ChangedData(StrEnum):
    """How to go on when the data is not what it was at the checkpoint."""

    fresh = "fresh"
    position = "position"


@dataclass
class ResumeConfig:
    allow_previous: bool = False
    """Step back to an older checkpoint when the newest is damaged."""
    data: ChangedData | None = None
    """Where the data has changed: fresh starts it at its beginning, position goes on in it where the run
    stood; null: refuse. Without effect on data that is as it was."""


@dataclass
class TrainConfig:
    experiment: str = "default"
    """Names the run: <output_dir>/<experiment>/<stage>."""
    output_dir: str = "outputs"
    seed: int = number(0, least=0, most=2**32 - 1)
    deterministic: bool = True
    """Refuse nondeterministic operations; needed for bit-equal resumption."""
    num_threads: int | None = number(None, least=1, most=4096)
    """CPU threads of torch; null: torch's choice."""
    force: bool = False
    """Run again although a run is there; the old run folder is moved aside."""
    model: ModelConfig = MISSING
    data: DataConfig = MISSING
    optimizer: OptimizerConfig = MISSING
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    training: StageConfig = MISSING
    resume: ResumeConfig = field(default_factory=ResumeConfig)


def run_path(config: TrainConfig, stage: str) -> Path:
    """The folder of a stage's run: <output_dir>/<experiment>/<stage>."""
    return Path(config.output_dir).absolute() / config.experiment / stage
