"""Lets the run be as long as stages/step_pace.py says: the trainer, learning rate, weights of objectives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lightning as L

from wrinklefree.callbacks.base import StepCallback
from wrinklefree.config.lengths import Lengths
from wrinklefree.config.training import GradientConfig
from wrinklefree.module import WrinkleFreeLightningModule
from wrinklefree.objectives.weights import weight_schedule
from wrinklefree.schedules import make_schedule
from wrinklefree.stages.step_pace import StepPace

_FALLEN = "fallen"


class Pacing(StepCallback):
    """Everybody else asks the trainer for `max_steps`."""

    def __init__(self, pace: StepPace, training: GradientConfig, tokens_per_step: int) -> None:
        self.pace = pace
        self._training, self._tokens_per_step = training, tokens_per_step

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, WrinkleFreeLightningModule)
        self._trainer, self._module = trainer, pl_module

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.pace.load_state_dict(state_dict)
        fallen = state_dict[_FALLEN]
        self._follow()
        self._module.schedule = replace(
            self._module.schedule, fallen=None if fallen is None else tuple(fallen)
        )

    def state_dict(self) -> dict[str, Any]:
        """Empty without minutes."""
        state = self.pace.state_dict()
        return state and state | {_FALLEN: self._module.schedule.fallen}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._set_batches()
        self.pace.loaded()

    def on_step_end(self, trainer: L.Trainer, module: WrinkleFreeLightningModule, step: int) -> None:
        before = module.schedule if self.pace.is_planned else None
        self.pace.stepped(step)
        if self.pace.num_steps == trainer.max_steps:
            return
        self._follow()
        if before is not None:
            module.schedule = before.planned_anew(module.schedule, step - 1)
        # Lightning has set the next step's learning rate already, by the plan before.
        (config,) = trainer.lr_scheduler_configs
        factor, scheduler = module.schedule(step), config.scheduler
        rates = [base * factor for base in scheduler.base_lrs]
        for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def _follow(self) -> None:
        training, num_steps = self._training, self.pace.num_steps
        self._trainer.fit_loop.epoch_loop.max_steps = num_steps
        self._set_batches()
        module = self._module
        module.schedule = make_schedule(training.schedule, Lengths(self._tokens_per_step, num_steps))
        module.objectives.weights = weight_schedule(training.objectives, training.curriculum, num_steps)

    def _set_batches(self) -> None:
        """What progress bars take for the whole; the loader does not know its length."""
        self._trainer.fit_loop.max_batches = self.pace.num_steps * self._training.accumulate_steps
