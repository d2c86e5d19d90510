"""The Lightning module: student, teacher, objectives, optimizer. Everything else is a callback."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.optim.lr_scheduler import LambdaLR

import bitnet_arch
from bitnet_arch.tensor_parallel import parallelize
from wrinklefree.capture import View
from wrinklefree.config.optimizer import OptimizerConfig
from wrinklefree.course import Course
from wrinklefree.forward import run_forward
from wrinklefree.objectives.manager import ObjectiveManager
from wrinklefree.optimizers import build_optimizer
from wrinklefree.schedules import Schedule
from wrinklefree.source_losses import by_source
from wrinklefree.teachers.base import Teacher


class WrinkleFreeLightningModule(L.LightningModule):
    """One training step = a student forward a view, a teacher forward on demand, a weighted loss.

    Args:
        model: the converted student (float32 master weights).
        teacher: None when no objective ever needs one. It is not a submodule: it is neither trained
            nor saved, nor sharded.
        learning_rate: peak; `schedule` gives the factor per step.
        num_sources: of the data.

    `source_sums` are those of the last forward pass (source_losses.by_source), where there are several
    sources and an objective has losses by token.

    `course` is as long as `schedule` is; callbacks.Pacing sets both.

    `step_metrics` collects the metrics of the running optimizer step: the module adds losses,
    callbacks add theirs, and callbacks.StepLog hands them to the loggers.
    """

    def __init__(
        self,
        model: Any,
        teacher: Teacher | None,
        objectives: ObjectiveManager,
        optimizer_config: OptimizerConfig,
        learning_rate: float,
        schedule: Schedule,
        num_sources: int = 1,
    ) -> None:
        super().__init__()
        self.model = model.train()
        self.teacher = teacher
        self.objectives = objectives
        self.optimizer_config = optimizer_config
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.course = Course(schedule.total_steps)
        self.num_sources = num_sources
        self.source_sums: Tensor | None = None
        self.micro_metrics: list[dict[str, Tensor]] = []
        self.step_metrics: dict[str, float] = {}

    def on_fit_start(self) -> None:
        bitnet_arch.log_kernels(self.device)
        if self.teacher is not None:
            self.teacher.to(self.device)

    def configure_model(self) -> None:
        """Where the strategy has a device mesh: cut for tensor parallelism, or shard with FSDP2, each block,
        then the rest.
        """
        if self.device_mesh is None:
            return
        if (mesh := self.device_mesh["tensor_parallel"]).size() > 1:
            parallelize(self.model, mesh)
            return
        mesh = self.device_mesh["data_parallel"]
        for block in self.model.model.layers:
            fully_shard(block, mesh=mesh)
        fully_shard(self.model, mesh=mesh)

    def training_step(self, batch: View, batch_idx: int) -> Tensor:
        teacher = self.teacher.forward if self.teacher is not None else None
        student = partial(run_forward, self.model)
        result = self.objectives.compute(batch, self.trainer.global_step, student, teacher)
        metrics = {"train/loss": result.loss.detach(), **result.metrics}
        self.micro_metrics.append(metrics)
        self.source_sums = None
        if self.num_sources > 1 and result.token_losses is not None:
            self.source_sums = by_source(result.token_losses, batch["source_ids"], self.num_sources)
        return result.loss

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]
        optimizer = build_optimizer(self.model, self.optimizer_config, self.learning_rate)
        scheduler = LambdaLR(optimizer, self._factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _factor(self, step: int) -> float:
        """Of the schedule that is in force, which may become another."""
        return self.schedule(step)

    def take_micro_metrics(self) -> dict[str, Tensor]:
        """Means over the forward passes of this optimizer step; empties the collection."""
        collected, self.micro_metrics = self.micro_metrics, []
        return {k: torch.stack([m[k] for m in collected]).mean() for k in collected[0]}
