"""Stage 1.9: align the hidden states of the ternary student with those of the dense teacher."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from wrinklefree.config.training import GradientConfig, ScheduleConfig
from wrinklefree.stages.gradient import GradientStage


@dataclass
class AlignConfig(GradientConfig):
    stage: str = "stage1_9"
    accept_from: list[str] = field(default_factory=lambda: ["stage1_5", "stage1"])
    max_steps: int | None = 2000
    learning_rate: float = 5e-4
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(warmup=0.02))
    objectives: dict[str, Any] = field(default_factory=lambda: {"layerwise": {}})


class Align(GradientStage):
    number = "1.9"
    title = "aligns hidden states with the dense teacher"
    option = "stage1_9_layerwise"
    config = AlignConfig
