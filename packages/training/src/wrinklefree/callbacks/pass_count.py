"""Lets a run go on with another number of forward passes a step and process.

Lightning counts the passes of a process and takes a step when their number is a multiple of those of a step.
A checkpoint is made between two steps, so the count is set to what it would be after as many steps.
"""

from __future__ import annotations

from typing import Any

import lightning as L


class PassCount(L.Callback):
    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        made = checkpoint["global_step"] * trainer.accumulate_grad_batches
        missing = made - progress["current"]["ready"]
        for counts in (progress["current"], progress["total"]):
            counts.update({kind: count + missing for kind, count in counts.items()})
