"""Logs the weights of the objectives in a run where they change."""

from __future__ import annotations

from typing import Any

import lightning as L

from wrinklefree.module import WrinkleFreeLightningModule


class ObjectiveWeights(L.Callback):
    """As `<objective>/weight_ratio`, 0 for one that is not active."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, WrinkleFreeLightningModule)
        schedule = pl_module.objectives.weights
        weights = schedule(trainer.global_step)
        for name in sorted(schedule.ever_active()):
            pl_module.step_metrics[f"{name}/weight_ratio"] = weights.get(name, 0.0)
