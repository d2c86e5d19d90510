"""Runs the active objectives on one batch: one student forward, a teacher forward only on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from wrinklefree.config.schema import ObjectiveConfig
from wrinklefree.forward import Batch, ForwardResult
from wrinklefree.objectives.base import Objective, ObjectiveResult
from wrinklefree.objectives.registry import build_objective
from wrinklefree.objectives.weights import ConstantWeights, WeightSchedule

Forward = Callable[[Batch], ForwardResult]


class ObjectiveManager:
    """Weighted sum of objectives; metrics come out as `objective/metric_unit`."""

    def __init__(self, objectives: Mapping[str, Objective], weights: WeightSchedule) -> None:
        unknown = weights.ever_active() - objectives.keys()
        if unknown:
            raise ValueError(f"weights for objectives that do not exist: {sorted(unknown)}")
        self.objectives = dict(objectives)
        self.weights = weights

    @classmethod
    def from_config(cls, configs: Mapping[str, ObjectiveConfig]) -> ObjectiveManager:
        objectives = {name: build_objective(name, config) for name, config in configs.items()}
        return cls(objectives, ConstantWeights({n: c.weight for n, c in configs.items()}))

    @property
    def ever_needs_teacher(self) -> bool:
        """Whether a teacher has to be loaded at all."""
        return any(self.objectives[name].needs_teacher for name in self.weights.ever_active())

    def active(self, step: int) -> dict[str, float]:
        """Objectives with a weight above 0 at this step, in the order of the configuration."""
        weights = self.weights(step)
        return {name: weights[name] for name in self.objectives if weights.get(name, 0.0) > 0}

    def preprocess_batch(self, batch: Batch, step: int) -> Batch:
        for name in self.active(step):
            batch = self.objectives[name].preprocess_batch(batch)
        return batch

    def compute(self, batch: Batch, step: int, student: Forward, teacher: Forward | None) -> ObjectiveResult:
        """Total loss and all metrics of one (raw) batch at an optimizer step.

        Raises: ValueError when an active objective needs a teacher and there is none.
        """
        active = self.active(step)
        batch = self.preprocess_batch(batch, step)
        teacher_result = self._teacher_forward(batch, active, teacher)
        student_result = student(batch)
        total: Tensor = student_result.last_hidden_state.new_zeros((), dtype=torch.float32)
        metrics: dict[str, Tensor] = {}
        for name, weight in active.items():
            objective = self.objectives[name]
            given = teacher_result if objective.needs_teacher else None
            result = objective.compute(batch, student_result, given)
            total = total + weight * result.loss
            metrics |= {f"{name}/{key}": value for key, value in result.metrics.items()}
        return ObjectiveResult(total, metrics)

    def _teacher_forward(
        self, batch: Batch, active: Mapping[str, float], teacher: Forward | None
    ) -> ForwardResult | None:
        wanting = [name for name in active if self.objectives[name].needs_teacher]
        if not wanting:
            return None
        if teacher is None:
            raise ValueError(f"objective '{wanting[0]}' needs a teacher, and none was loaded")
        with torch.no_grad():
            return teacher(batch)
