"""Logs the loss of each source of the data, in runs that have several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L

from wrinklefree.callbacks.base import StepCallback
from wrinklefree.callbacks.step_log import is_logged
from wrinklefree.datamodule import data_of
from wrinklefree.module import WrinkleFreeLightningModule
from wrinklefree.source_losses import SourceSums


class SourceLosses(StepCallback):
    """As `loss/<source>`: the mean over its tokens since the row before, of all ranks; none for a source that
    none was seen of. Sums leave the device for a row only.
    """

    def __init__(self, names: Sequence[str], every_steps: int) -> None:
        self._every_steps = every_steps
        self._sums = SourceSums(names)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        assert isinstance(pl_module, WrinkleFreeLightningModule)
        if pl_module.source_sums is not None:
            self._sums.add(pl_module.source_sums)
        super().on_train_batch_end(trainer, pl_module, *args, **kwargs)

    def on_step_end(self, trainer: L.Trainer, module: WrinkleFreeLightningModule, step: int) -> None:
        if is_logged(trainer, step, self._every_steps):
            losses = self._sums.take(trainer, data_of(trainer).num_readers)
            module.step_metrics |= {f"loss/{name}": loss for name, loss in losses.items()}

    def state_dict(self) -> dict[str, Any]:
        return self._sums.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._sums.load_state_dict(state_dict)
