"""Stage 2: continue pre-training with quantization on next-token cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from wrinklefree.config.training import GradientConfig, ScheduleConfig, ScheduleKind
from wrinklefree.stages.gradient import GradientStage


@dataclass
class PretrainConfig(GradientConfig):
    stage: str = "stage2"
    accept_from: list[str] = field(default_factory=lambda: ["stage1_9", "stage1_5"])
    """Add stage1 to allow skipping calibration and alignment."""
    max_steps: int | None = 10000
    learning_rate: float = 1e-4
    """Peak learning rate; calibrated weights work already."""
    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig(kind=ScheduleKind.wsd, warmup=0.02, decay=0.2)
    )
    objectives: dict[str, Any] = field(default_factory=lambda: {"continue_pretrain": {}})


class Pretrain(GradientStage):
    number = "2"
    title = "next-token loss with quantization in the forward pass"
    option = "stage2_pretrain"
    config = PretrainConfig
