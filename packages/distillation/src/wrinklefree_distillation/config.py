"""The configuration of `distill.py`: the trainer's, and the student."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from wrinklefree.compose.roots import Root
from wrinklefree.config.root import TrainConfig


@dataclass
class StudentConfig:
    checkpoint_path: str | None = None
    """Folder of the checkpoint to distil into; null: the result of the same experiment's previous stage."""


@dataclass
class DistillRootConfig(TrainConfig):
    student: StudentConfig = field(default_factory=StudentConfig)


DISTILL = Root("distill", DistillRootConfig, Path(__file__).parents[2] / "configs")
