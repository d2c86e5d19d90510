"""How stage 1.5 keeps time: what its pieces took, how many steps the next ones get, what is left.

With `training.ternarize.minutes` the steps are decided as late as possible, by budget.py and what was
measured last: of each block before it begins, of the distillation at its beginning, after its first steps
and before each saved state. Decisions are kept (a part of the run, as the measured dtype is): a run that
was stopped takes those that were made, so it goes on to the bit, and counts the time that was spent before.
Without it the steps are those configured, and only what is left is estimated. progress.json says it all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from wrinklefree.config.ternarize import TernarizeConfig
from wrinklefree.stages.budget import distil_bounds, plan_blocks, plan_steps, planned, refine_bounds
from wrinklefree.stages.measured import Measured
from wrinklefree.stages.watch import FIRST_STEPS, Watch

if TYPE_CHECKING:
    from wrinklefree.run_folder import RunFolder

LOG = logging.getLogger("wrinklefree")
_PLAN, _LEFT_OVER = "plan", "left_over_s"


class Pace:
    """Call its methods in the order in which they stand here.

    Args:
        minutes, the time of all runs together, and steps: of `options`.
        clock: seconds, rising.
    """

    def __init__(
        self, options: TernarizeConfig, run: RunFolder, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._options, self._parts = options, run.parts
        self._watch = Watch(run.path, "training.ternarize.minutes", options.minutes, clock)
        self._decisions: dict[str, int] = {}
        if _PLAN in run.parts:
            stored = run.parts.load(_PLAN)[1]
            self._decisions = stored["decisions"]
            self._watch.count(stored["spent_s"])
        self._refine = refine_bounds(options.refine_steps)
        self._distil = distil_bounds(options.distil_steps)
        self._measured = Measured(0, 1.0)
        self._end_s = 0.0
        self._num_blocks = self._num_passed = 0
        self._refining_s = 0.0
        self._refined: tuple[float, int] | None = None

    @property
    def spent_s(self) -> float:
        return self._watch.spent_s

    def loaded(self, save_s: float) -> None:
        """Models and text are there. Args: save_s is what saving the result will take (saving.py)."""
        self._end_s = save_s
        self._watch.lap()

    def prepared(self, num_blocks: int, num_distil_steps: int) -> None:
        """The losses before are measured, as will be those after.

        Args:
            num_blocks: 0 where they are kept.
            num_distil_steps: that there is text for.
        """
        self._end_s += self._watch.lap()
        self._num_blocks = num_blocks
        ratio = self._options.distil_batch_size / self._options.refine_batch_size
        self._measured = Measured(num_blocks, ratio)
        self._distil = distil_bounds(num_distil_steps)
        if num_blocks:
            self._write("blocks", 0, num_blocks)

    def refine_steps(self) -> int:
        """Those of the block that is worked on, or let pass, now."""
        return self._decide(f"block.{self._num_passed}", self._options.refine_steps, self._plan_block)

    def refining(self) -> None:
        """The block is solved; its refinement begins."""
        self._refining_s = self.spent_s

    def refined(self, num_steps: int) -> None:
        """The block's refinement is done."""
        self._refined = (self.spent_s - self._refining_s, num_steps)

    def passed(self) -> None:
        """The streams have passed the block."""
        took_s = self._watch.lap()
        if self._refined is not None:  # else an earlier run had worked on it
            self._measured.block(took_s, *self._refined)
            self._refined = None
        self._num_passed += 1
        self._write("blocks", self._num_passed, self._num_blocks)

    def distilling(self) -> None:
        """The first distillation step begins."""
        self._watch.lap()
        share = 1 - self._options.distil_share
        self._decide(_LEFT_OVER, 0, lambda: max(0, int(share * self._left_s())))

    def distil_steps(self, num_done: int) -> int:
        """Steps of the whole distillation, as it looks after `num_done` of them."""
        if num_done not in (0, FIRST_STEPS) and num_done % self._options.save_every_steps:
            return self._num_distil_steps(num_done)
        return self._decide(
            f"distil.{num_done}", self._options.distil_steps, lambda: self._plan_distillation(num_done)
        )

    def distilled(self, num_done: int, divergence: float) -> None:
        """A distillation step is done."""
        self._measured.distil_steps.add(self._watch.lap())
        detail = f"{divergence:.2f} nats apart"
        self._write("steps", num_done, self._num_distil_steps(num_done), detail)

    def finished(self) -> None:
        self._watch.finished()

    # ---- decisions

    def _decide(self, key: str, configured: int, plan: Callable[[], int]) -> int:
        """What was decided under `key`, by this run or before it was stopped."""
        if self._options.minutes is None:
            return configured
        if key not in self._decisions:
            self._decisions[key] = plan()
            self._parts.save(_PLAN, {}, {"decisions": self._decisions, "spent_s": self.spent_s})
        return self._decisions[key]

    def _plan_block(self) -> int:
        if not self._measured.has_blocks:  # the first block of all, which measures, or of a run that goes on
            return self._decisions.get(f"block.{self._num_passed - 1}", self._refine.usual)
        num_left = self._num_blocks - self._num_passed
        plan = plan_blocks(self._left_s(), num_left, self._measured.costs(), self._refine, self._distil)
        self._watch.is_late(plan.seconds, self._end())
        return plan.refine_steps

    def _plan_distillation(self, num_done: int) -> int:
        step_s = self._measured.distil_step_s()
        if not step_s:  # a run that goes on: nothing is measured
            return self._num_distil_steps(num_done)
        steps = plan_steps(self._left_s(), num_done, step_s, self._distil)
        is_late = self._watch.is_late((steps - num_done) * step_s, self._end())
        if steps != self._num_distil_steps(num_done) and not is_late:
            LOG.info("%d distillation steps fit into the time", steps)
        return steps

    def _num_distil_steps(self, num_done: int) -> int:
        """As decided last, or as configured."""
        for step in range(num_done, -1, -1):
            if (key := f"distil.{step}") in self._decisions:
                return self._decisions[key]
        return self._distil.most

    # ---- time

    def _left_s(self) -> float:
        """Until the end's work has to begin, without what is left over for others."""
        return self._watch.left_s(self._end()) - self._decisions.get(_LEFT_OVER, 0)

    def _end(self) -> float:
        """What is reserved for the end."""
        return self._end_s * self._measured.slowdown()

    def _remaining_s(self, num_steps_done: int) -> float | None:
        """Of the whole stage. None where it is not planned and nothing was measured."""
        if len(self._measured.distil_steps):
            num_left = self._num_distil_steps(num_steps_done) - num_steps_done
            return num_left * self._measured.distil_step_s() + self._end()
        if not self._measured.has_blocks:
            return None if self._options.minutes is None else self._left_s() + self._end()
        num_left = self._num_blocks - self._num_passed
        refine, distil = self._options.refine_steps, self._distil.most
        plan = planned(num_left, self._measured.costs(), refine, distil)
        if self._options.minutes is not None:
            plan = plan_blocks(self._left_s(), num_left, self._measured.costs(), self._refine, self._distil)
        left_over_s = (1 - self._options.distil_share) * plan.distil_steps * self._measured.distil_step_s()
        return plan.seconds - left_over_s + self._end()

    def _write(self, what: str, done: int, total: int, detail: str = "") -> None:
        num_steps_done = done if what == "steps" else 0
        self._watch.write(what, done, total, lambda: self._remaining_s(num_steps_done), detail)
