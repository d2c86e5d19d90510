"""Lightning's progress bars, for a run whose length changes while it goes on."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from rich.console import Console

from wrinklefree.config.logging import ProgressBar


class _RichBar(RichProgressBar):
    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        if self.progress is not None and self.train_progress_bar_id is not None:
            self.progress.update(self.train_progress_bar_id, total=trainer.num_training_batches)
        super().on_train_batch_end(trainer, *args, **kwargs)


class _TqdmBar(TQDMProgressBar):
    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        self.train_progress_bar.total = trainer.num_training_batches
        super().on_train_batch_end(trainer, *args, **kwargs)


def progress_bars(kind: ProgressBar) -> list[L.Callback]:
    """The one that is asked for, or none."""
    if kind is ProgressBar.auto:
        kind = ProgressBar.rich if Console().is_terminal else ProgressBar.none
    if kind is ProgressBar.none:
        return []
    return [_RichBar() if kind is ProgressBar.rich else _TqdmBar()]
