"""Fades quantization in: lambda of the model's BitLinear layers rises linearly from 0 to 1."""

from __future__ import annotations

from typing import Any

import lightning as L

import bitnet_arch
from wrinklefree.module import WrinkleFreeLightningModule


def lambda_at(step: int, warmup_steps: int) -> float:
    """Blend factor of the forward pass of step `step` (0 for the first)."""
    return min(1.0, step / warmup_steps) if warmup_steps > 0 else 1.0


class LambdaWarmup(L.Callback):
    """Sets lambda before each forward pass; a function of the step, so it needs no saved state."""

    def __init__(self, warmup_steps: int) -> None:
        self.warmup_steps = warmup_steps

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, WrinkleFreeLightningModule)
        value = lambda_at(trainer.global_step, self.warmup_steps)
        bitnet_arch.set_lambda(pl_module.model, value)
        pl_module.step_metrics["train/lambda_ratio"] = value

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, WrinkleFreeLightningModule)
        bitnet_arch.set_lambda(pl_module.model, 1.0)
