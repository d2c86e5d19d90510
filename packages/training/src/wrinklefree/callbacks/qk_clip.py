"""Bounds attention logits after a step that showed larger ones, by the rule of wrinklefree/qk_clip.py."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
import torch.distributed as dist

from bitnet_arch.attention_logits import LogitWatch
from wrinklefree.callbacks.base import StepCallback
from wrinklefree.config.training import QkClipConfig
from wrinklefree.distributed import is_distributed
from wrinklefree.module import WrinkleFreeLightningModule
from wrinklefree.qk_clip import check_finite, head_factors, scale_heads


class QkClip(StepCallback):
    """What a step showed acts after it, so there is no state to save. All ranks scale alike, by the largest
    logits of any.
    """

    def __init__(self, config: QkClipConfig) -> None:
        assert config.threshold is not None
        self._threshold, self._every_steps = config.threshold, config.every_steps
        self._watch: LogitWatch | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        assert isinstance(pl_module, WrinkleFreeLightningModule)
        self._watch = LogitWatch(pl_module.model)
        self._watch.begin()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert self._watch is not None
        self._watch.is_on = (trainer.global_step + 1) % self._every_steps == 0

    def on_step_end(self, trainer: L.Trainer, module: WrinkleFreeLightningModule, step: int) -> None:
        if step % self._every_steps:
            return
        assert self._watch is not None
        self._watch.is_on = False  # passes between steps (a mixture's scoring) are none of a step's
        largest = self._watch.take().nan_to_num_(torch.inf, torch.inf)  # a maximum of ranks may lose a NaN
        if is_distributed():
            dist.all_reduce(largest, dist.ReduceOp.MAX)
        check_finite(largest)
        above = largest > self._threshold
        for attention, logits, over in zip(
            self._watch.attentions, largest, above.any(1).tolist(), strict=True
        ):
            if over:
                num_key_heads = module.model.config.num_key_value_heads
                scale_heads(attention, *head_factors(logits, num_key_heads, self._threshold))
        module.step_metrics["train/largest_logit"] = torch.max(largest).item()
        module.step_metrics["train/clipped_heads"] = int(above.sum())

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._end()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self._end()

    def _end(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.end()
