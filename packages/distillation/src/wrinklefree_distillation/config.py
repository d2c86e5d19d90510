"""The configurations of `distill.py`, the trainer's and the student, and of `dlm.py`, the trainer's."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from wrinklefree.compose.roots import Root
from wrinklefree.config.root import TrainConfig

_ABOUT_DLM = """Make a block-diffusion model of an autoregressive one, dense or ternary: stage 4 of training.

    {prog} -e mine                        # goes on from the experiment's stage 3, 2.5, 2, 1.9, 1.5 or 1
    {prog} -e blocks training.start_from=outputs/mine/stage2/final training.block_size=16
    {prog} -e dense model.scheme=none     # a dense model, after `wf train -s 1` with the same

It runs in this terminal; as a background job or on another machine it is `wf train -s 4`."""


@dataclass
class StudentConfig:
    checkpoint_path: str | None = None
    """Folder of the checkpoint to distil into; null: the result of the same experiment's previous stage."""


@dataclass
class DistillRootConfig(TrainConfig):
    student: StudentConfig = field(default_factory=StudentConfig)


_CONFIGS = Path(__file__).parents[2] / "configs"
DISTILL = Root("distill", DistillRootConfig, _CONFIGS)
DLM = Root("dlm", TrainConfig, _CONFIGS, _ABOUT_DLM)
