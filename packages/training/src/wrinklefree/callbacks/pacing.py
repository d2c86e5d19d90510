"""Lets the run be as long as stages/step_pace.py says: the trainer, learning rate and what goes by shares."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L

from wrinklefree.callbacks.base import StepCallback
from wrinklefree.config.lengths import Lengths
from wrinklefree.config.training import GradientConfig
from wrinklefree.course import Course
from wrinklefree.distributed import together
from wrinklefree.module import WrinkleFreeLightningModule
from wrinklefree.objectives.weights import weight_schedule
from wrinklefree.schedules import START, Schedule, make_schedule
from wrinklefree.stages.saving import saving_s, weight_bytes
from wrinklefree.stages.step_pace import StepPace

_RISEN, _FALLEN, _DONE = "risen", "fallen", "done"
"""Of a checkpoint: where schedule and course go on from. Those from before planned by `fallen` alone."""


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
        risen, fallen = (tuple(state_dict.get(key) or START) for key in (_RISEN, _FALLEN))
        done = tuple(state_dict.get(_DONE) or Course(1).done)
        self._follow(replace(self._plan(), risen=risen, fallen=fallen), Course(self.pace.num_steps, done))

    def state_dict(self) -> dict[str, Any]:
        """Empty without minutes."""
        state, schedule = self.pace.state_dict(), self._module.schedule
        places = {_RISEN: schedule.risen, _FALLEN: schedule.fallen, _DONE: self._module.course.done}
        return state and state | places

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._set_batches()
        folder, num_bytes = Path(trainer.default_root_dir), weight_bytes(self._module.model)
        measured = together(lambda: saving_s(folder, num_bytes) if trainer.is_global_zero else 0.0)
        self.pace.loaded(measured[0])

    def on_step_end(self, trainer: L.Trainer, module: WrinkleFreeLightningModule, step: int) -> None:
        self.pace.stepped(step)
        if self.pace.num_steps == trainer.max_steps:
            return
        schedule = module.schedule.planned_anew(self._plan(), step - 1)
        self._follow(schedule, module.course.planned_anew(self.pace.num_steps, step))
        # Lightning has set the next step's learning rate already, by the plan before.
        (config,) = trainer.lr_scheduler_configs
        factor, scheduler = schedule(step), config.scheduler
        rates = [base * factor for base in scheduler.base_lrs]
        for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def _plan(self) -> Schedule:
        """Of a run that is as long from its beginning."""
        return make_schedule(self._training.schedule, Lengths(self._tokens_per_step, self.pace.num_steps))

    def _follow(self, schedule: Schedule, course: Course) -> None:
        self._trainer.fit_loop.epoch_loop.max_steps = self.pace.num_steps
        self._set_batches()
        training, module = self._training, self._module
        module.schedule, module.course = schedule, course
        module.objectives.weights = weight_schedule(training.objectives, training.curriculum, course)

    def _set_batches(self) -> None:
        """What progress bars take for the whole; the loader does not know its length."""
        self._trainer.fit_loop.max_batches = self.pace.num_steps * self._training.accumulate_steps
