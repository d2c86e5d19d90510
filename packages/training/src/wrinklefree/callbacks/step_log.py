"""Hands the metrics of each optimizer step to the loggers, the progress bar and the console."""

from __future__ import annotations

import logging
from collections.abc import Callable

import lightning as L

from wrinklefree.callbacks.base import StepCallback
from wrinklefree.datamodule import data_of
from wrinklefree.module import WrinkleFreeLightningModule
from wrinklefree.stages.watch import clock_time

LOG = logging.getLogger("wrinklefree")


def is_logged(trainer: L.Trainer, step: int, every_steps: int) -> bool:
    """Whether the loggers get a row of this step."""
    return step % every_steps == 0 or step in (1, trainer.max_steps)


class StepLog(StepCallback):
    """Args: rows for the loggers every `every_steps`, console lines every `console_every_steps`; left_s says
    how long the run will take from a step on."""

    def __init__(self, every_steps: int, console_every_steps: int, left_s: Callable[[int], float]) -> None:
        self.every_steps = every_steps
        self.console_every_steps = console_every_steps
        self._left_s = left_s

    def on_step_end(self, trainer: L.Trainer, module: WrinkleFreeLightningModule, step: int) -> None:
        metrics, module.step_metrics = module.step_metrics, {}
        if is_logged(trainer, step, self.every_steps):
            metrics |= _bad_records(trainer)
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=step)
        shown = {"loss": metrics["train/loss"], "tok/s": metrics["train/tokens_per_s"]}
        module.log_dict(shown, prog_bar=True, logger=False)
        if trainer.is_global_zero and is_logged(trainer, step, self.console_every_steps):
            LOG.info(
                "step %d/%d  loss %.4f  grad norm %.3g  lr %.2e  %.0f tok/s  waiting %.1f %%  %s left",
                step,
                trainer.max_steps,
                metrics["train/loss"],
                metrics["train/grad_norm"],
                metrics["train/learning_rate"],
                metrics["train/tokens_per_s"],
                100 * metrics["train/data_wait_share"],
                clock_time(self._left_s(step)),
            )


def _bad_records(trainer: L.Trainer) -> dict[str, int]:
    """How many were passed over so far, where a source passes any over: all ranks are asked."""
    data = data_of(trainer)
    if not data.may_skip:
        return {}
    return {"train/bad_records": sum(source["records"] for source in data.bad_records().values())}
