"""Callbacks that act once per optimizer step, however many forward passes it accumulates."""

from __future__ import annotations

from typing import Any

import lightning as L

from wrinklefree.module import WrinkleFreeLightningModule


class StepCallback(L.Callback):
    """Calls `on_step_end` after each optimizer step with the number of steps done so far."""

    _steps_seen: int = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._steps_seen = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if trainer.global_step == self._steps_seen:
            return
        self._steps_seen = trainer.global_step
        assert isinstance(pl_module, WrinkleFreeLightningModule)
        self.on_step_end(trainer, pl_module, trainer.global_step)

    def on_step_end(self, trainer: L.Trainer, module: WrinkleFreeLightningModule, step: int) -> None:
        """`step` optimizer steps are done."""
