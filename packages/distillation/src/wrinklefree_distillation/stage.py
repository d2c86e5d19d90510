"""Stage 3: distillation. It differs from stage 2 in its objectives and defaults only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from wrinklefree.config.training import GradientConfig, ScheduleConfig, ScheduleKind
from wrinklefree.stages.gradient import GradientStage


@dataclass
class DistillConfig(GradientConfig):
    stage: str = "stage3"
    accept_from: list[str] = field(
        default_factory=lambda: ["stage2_5", "stage2", "stage1_9", "stage1_5", "stage1"]
    )
    max_steps: int | None = 2000
    learning_rate: float = 1e-4
    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig(kind=ScheduleKind.wsd, warmup=0.02, decay=0.4)
    )
    objectives: dict[str, Any] = field(default_factory=lambda: {"logits_distill": {}})


class Distill(GradientStage):
    number = "3"
    title = "distils a teacher's predictions and attention"
    option = "stage3_distill"
    config = DistillConfig
