"""Exponential moving average of the weights, which becomes the result of a run.

average += (1 - d) (weight - average) after each step, d = min(decay, (1 + n) / (10 + n)) after n steps, so
that a short run does not keep its first weights (Polyak and Juditsky 1992). Codes of a ternary model are
those of the averaged master weights: weights that swing about a threshold settle.
"""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor

from wrinklefree.callbacks.base import StepCallback
from wrinklefree.module import WrinkleFreeLightningModule


class Ema(StepCallback):
    """Training and its checkpoints keep the weights as they are; a complete run ends with the average."""

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._averages: dict[str, Tensor] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        for name, weight in _trained(pl_module).items():
            self._averages.setdefault(name, weight.detach().clone())

    def on_step_end(self, trainer: L.Trainer, module: WrinkleFreeLightningModule, step: int) -> None:
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        weights = _trained(module)
        averages = [self._averages[name] for name in weights]
        torch._foreach_lerp_(averages, [weight.detach() for weight in weights.values()], share)

    @torch.no_grad()
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step >= trainer.max_steps:
            for name, weight in _trained(pl_module).items():
                weight.copy_(self._averages[name])

    def state_dict(self) -> dict[str, Any]:
        return {"averages": self._averages}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._averages = dict(state_dict["averages"])


def _trained(module: L.LightningModule) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}
