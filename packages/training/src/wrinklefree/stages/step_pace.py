"""How a stage with gradients keeps time: what its steps take, how many there are to be, what is left.

With `training.minutes` the number of steps is planned after the first few, then again each time that a tenth
of the steps that were left has been done (20 at most, at last each) or a tenth of the time has passed, by
budget.plan_steps and what was measured last: a machine that slows down midway still ends in time, with its
learning rate at the end. What saving takes is measured before the first step (saving.py), then by each
checkpoint. A run that has time for the least steps ends at most a step and a save late. All ranks go by the
first one's clock, and ask it after each step: a plan is a collective. The plan and the time that was spent
are in every checkpoint. A resumed run goes on with them, and plans again when it has measured steps of its
own. Without minutes the steps are those configured, and only what is left is estimated. progress.json says it
all.
"""

from __future__ import annotations

import logging
from typing import Any

from wrinklefree.config.lengths import LEAST_STEPS, MOST_STEPS
from wrinklefree.distributed import gather_from_ranks
from wrinklefree.errors import RunError
from wrinklefree.stages.budget import Bounds, plan_steps
from wrinklefree.stages.measured import StepTimes
from wrinklefree.stages.watch import FIRST_STEPS, Watch

LOG = logging.getLogger("wrinklefree")
_PLANS_A_STRETCH, _MOST_BETWEEN = 10, 20
_CHECKPOINT_OVER_RESULT = 3.0
"""Bytes, at most: two moments a weight. Holds until a checkpoint is measured."""


class StepPace:
    """Args:
    num_steps: of the run; with minutes until they are planned.
    least: steps that schedule and curriculum need.
    save_every_steps: steps between checkpoints; 0: none.
    """

    def __init__(self, watch: Watch, num_steps: int, least: int, save_every_steps: int) -> None:
        self.num_steps = num_steps
        self._watch, self._least, self._save_every_steps = watch, least, save_every_steps
        self._times = StepTimes()
        self._end_s = self._save_s = 0.0
        self._next_plan, self._next_plan_s = FIRST_STEPS, 0.0

    @property
    def is_planned(self) -> bool:
        """Whether `num_steps` comes of measured steps."""
        return self._next_plan != FIRST_STEPS

    def loaded(self, save_s: float) -> None:
        """Models and text are there, the first step begins. Args: save_s is what saving the result will take,
        as it looks now (saving.py)."""
        self._end_s, self._save_s = save_s, _CHECKPOINT_OVER_RESULT * save_s
        self._watch.lap()

    def stepped(self, num_done: int) -> None:
        """A step is done."""
        self._times.add(self._watch.lap())
        if self._is_due(num_done):
            self._plan(num_done)
        self._watch.write("steps", num_done, self.num_steps, lambda: self.left_s(num_done))

    def saved(self, result_share: float | None) -> None:
        """A checkpoint was written. Args: result_share are the weights' bytes over all of its; None: it is
        still written, in the background."""
        self._save_s = self._watch.lap()
        if result_share is not None:
            self._end_s = self._save_s * result_share

    def finished(self) -> None:
        """The run has ended, or was stopped."""
        self._watch.finished()

    def left_s(self, num_done: int) -> float:
        """Of the whole stage, after `num_done` steps."""
        steps_s = (self.num_steps - num_done) * self._times.step_s
        return steps_s + self._saves_s(num_done, self.num_steps) + self._end()

    def state_dict(self) -> dict[str, Any]:
        """Empty without minutes."""
        if self._watch.minutes is None:
            return {}
        plan = {"num_steps": self.num_steps, "next_plan": self._next_plan, "next_plan_s": self._next_plan_s}
        return plan | {"spent_s": self._watch.spent_s}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num_steps, self._next_plan = state["num_steps"], state["next_plan"]
        self._next_plan_s = state.get("next_plan_s", 0.0)  # of before: at once
        self._watch.count(state["spent_s"])

    def _is_due(self, num_done: int) -> bool:
        is_measured = len(self._times) >= FIRST_STEPS
        if self._watch.minutes is None or not is_measured or num_done >= self.num_steps:
            return False
        if num_done >= self._next_plan:
            return True
        return self.is_planned and gather_from_ranks(self._watch.spent_s >= self._next_plan_s)[0]

    def _plan(self, num_done: int) -> None:
        """Raises: RunError where what is configured in steps needs more of them than there is time for."""
        is_first = not self.is_planned
        steps = gather_from_ranks(self._fitting(num_done))[0]  # all ranks go by the first one's clock
        if is_first and steps < self._least:
            raise RunError(
                f"training.minutes={self._watch.minutes:g} has time for about {steps} steps, and "
                f"schedule, curriculum and lambda_warmup_steps need {self._least}: give more minutes, or "
                "warmup and decay as shares of the run (training.schedule.warmup=0.02)"
            )
        self.num_steps = max(num_done + 1, self._least, steps)
        needed_s = self.left_s(num_done) - self._end()
        is_late = steps <= self._least and self._watch.is_late(needed_s, self._end())
        if is_first and not is_late:
            LOG.info("%d steps fit into training.minutes=%g", self.num_steps, self._watch.minutes)
        stretch = (self.num_steps - num_done) // _PLANS_A_STRETCH
        self._next_plan = num_done + max(1, min(_MOST_BETWEEN, stretch))
        self._next_plan_s = self._watch.spent_s + self._watch.left_s(self._end()) / _PLANS_A_STRETCH

    def _fitting(self, num_done: int) -> int:
        """Steps of the whole, those done included, that there is time for."""
        bounds = Bounds(LEAST_STEPS, LEAST_STEPS, MOST_STEPS)
        left_s, step_s = self._watch.left_s(self._end()), self._times.step_s
        share_s = self._save_s / self._save_every_steps if self._save_every_steps else 0.0
        about = plan_steps(left_s, num_done, step_s + share_s, bounds)
        return plan_steps(left_s - self._saves_s(num_done, about), num_done, step_s, bounds)

    def _saves_s(self, num_done: int, num_steps: int) -> float:
        """Of the checkpoints from that of step `num_done` to that of step `num_steps`."""
        every = self._save_every_steps
        return self._save_s * (num_steps // every - (num_done - 1) // every) if every else 0.0

    def _end(self) -> float:
        """What is reserved for the end."""
        return self._end_s * self._times.slowdown
