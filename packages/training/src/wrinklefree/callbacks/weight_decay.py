"""Switches weight decay off for the rest of a run, as BitNet b1.58 2B4T was trained (arXiv 2504.12285)."""

from __future__ import annotations

from typing import Any

import lightning as L

from wrinklefree.module import WrinkleFreeLightningModule

INITIAL = "initial_weight_decay"
"""Key of a parameter group: its weight decay while that is on."""


class WeightDecay(L.Callback):
    """A function of the run's course, so it needs no saved state.

    Args:
        share: of the run with weight decay.
    """

    def __init__(self, share: float) -> None:
        self.share = share

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, WrinkleFreeLightningModule)
        on = pl_module.course.share(trainer.global_step) < self.share
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                initial = group.setdefault(INITIAL, group["weight_decay"])
                group["weight_decay"] = initial if on else 0.0
