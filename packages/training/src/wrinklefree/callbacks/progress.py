"""Counts of tokens, throughput and the figures of the run's summary.

Step time is the time of the forward passes, backward passes and update plus the wait for the
batches; time spent writing checkpoints does not count.
"""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import torch
from torch import Tensor

from wrinklefree.callbacks.base import StepCallback
from wrinklefree.datamodule import data_of, num_labels
from wrinklefree.module import WrinkleFreeLightningModule


class Progress(StepCallback):
    """Counts over the whole run, resumed or not: tokens that were seen and those among them that the loss is
    of (both of all ranks), seconds, first and last loss."""

    def __init__(self) -> None:
        self.tokens = 0
        self.label_tokens = 0
        self.seconds = 0.0
        self.first_loss: float | None = None
        self.last_loss: float | None = None
        self._step_tokens = 0
        self._step_labels: list[Tensor] = []
        self._step_s = 0.0
        self._batch_start_s = 0.0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._batch_start_s = time.perf_counter()
        self._step_tokens += batch["input_ids"].numel() * data_of(trainer).num_readers
        self._step_labels.append(num_labels(batch["labels"]))

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self._step_s += time.perf_counter() - self._batch_start_s
        super().on_train_batch_end(*args, **kwargs)

    def on_step_end(self, trainer: L.Trainer, module: WrinkleFreeLightningModule, step: int) -> None:
        data = data_of(trainer)
        assert data.loader is not None
        waited_s = data.loader.take_waited_s()
        duration_s = self._step_s + waited_s
        self.tokens += self._step_tokens
        self.label_tokens += _summed(trainer, torch.stack(self._step_labels).sum())
        self.seconds += duration_s
        losses = {key: value.item() for key, value in _averaged(trainer, module).items()}
        self.last_loss = losses["train/loss"]
        self.first_loss = self.last_loss if self.first_loss is None else self.first_loss
        module.step_metrics |= losses | {
            "train/tokens": self.tokens,
            "train/label_tokens": self.label_tokens,
            "train/tokens_per_s": self._step_tokens / duration_s,
            "train/data_wait_share": waited_s / duration_s,
            "train/learning_rate": module.learning_rate * module.schedule(step - 1),
        }
        self._step_tokens, self._step_labels, self._step_s = 0, [], 0.0

    def state_dict(self) -> dict[str, Any]:
        names = ("tokens", "label_tokens", "seconds", "first_loss", "last_loss")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, value in state_dict.items():
            setattr(self, name, value)


def _summed(trainer: L.Trainer, count: Tensor) -> int:
    """Over the ranks that have batches of their own."""
    return int(trainer.strategy.reduce(count, reduce_op="sum") if data_of(trainer).num_readers > 1 else count)


def _averaged(trainer: L.Trainer, module: WrinkleFreeLightningModule) -> dict[str, Any]:
    """Metrics of the step, averaged over its forward passes and over the ranks."""
    metrics = module.take_micro_metrics()
    if trainer.world_size == 1:
        return metrics
    return {key: trainer.strategy.reduce(value, reduce_op="mean") for key, value in metrics.items()}
