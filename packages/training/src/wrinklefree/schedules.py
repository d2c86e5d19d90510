"""Learning-rate factors as pure functions of the optimizer step.

cosine: linear rise over `warmup`, then half a cosine to `min_ratio` (Loshchilov & Hutter 2017).
wsd: rise, constant, then a linear fall over `decay` (MiniCPM, Hu et al. 2024, arXiv 2404.06395).
How the configured lengths become steps: config/lengths.py.

The factor is the lesser of two lines: the rise, from 0 to 1, and the fall, from 1 to `min_ratio`. A run whose
length is planned anew midway keeps its place on both, and only their slopes become others: the rise goes on
by the new plan's warmup, and a fall that has begun, or should have, is spread over the updates that are left.
So whatever plans are made, after whatever updates:

- The rise never falls and the fall never rises: the warmup is gone through once, and after the first update
  with a smaller factor none has a larger one.
- The factors of two successive updates differ by at most the larger of 1 / (warmup_steps + 1) and
  c (1 - min_ratio) / n, by the plan in force: c is pi / 2 for cosine and 1 for wsd, n the plan's decay_steps,
  or the updates that were left when the plan was made if these are fewer.
- Where there is a fall the last update has `min_ratio`, or less if the warmup has not come so far.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from wrinklefree.config.lengths import Lengths, schedule_phases
from wrinklefree.config.training import ScheduleConfig, ScheduleKind

Place = tuple[int, float]
"""An update, by its index, and the share of a line that it had behind it."""
START: Place = (-1, 0.0)


@dataclass(frozen=True)
class Schedule:
    """Factor on the peak learning rate; lengths in optimizer steps.

    Attributes:
        decay_steps: of the fall; those after the warmup for cosine.
        risen, fallen: where each line goes on from.
    """

    kind: ScheduleKind
    total_steps: int
    warmup_steps: int
    decay_steps: int
    min_ratio: float
    risen: Place = START
    fallen: Place = START

    def __call__(self, step: int) -> float:
        """Factor for the update with index `step` (0 for the first)."""
        share = self.fall(step)
        if self.kind is ScheduleKind.cosine:
            lowered = self.min_ratio + (1 - self.min_ratio) * 0.5 * (1 + math.cos(math.pi * share))
        else:
            lowered = 1 - (1 - self.min_ratio) * share
        return min(self.rise(step), lowered)

    def rise(self, step: int) -> float:
        """The share of the way up that update `step` has behind it: 1 after the warmup."""
        last, share = self.risen
        return min(1.0, share + (step - last) / (self.warmup_steps + 1))

    def fall(self, step: int) -> float:
        """The share of the way down that update `step` has behind it: 0 before the fall, 1 at the end."""
        last, share = self.fallen
        end = self.total_steps - 1
        begin = last if share else max(last, end - self.decay_steps)
        if step <= begin:
            return share
        return min(1.0, share + (1 - share) * (step - begin) / max(1, end - begin))

    def planned_anew(self, plan: Schedule, last: int) -> Schedule:
        """`plan`, of another length, as it goes on from this one after update `last`."""
        is_kept = plan.warmup_steps == self.warmup_steps  # the same line, then, to the bit
        risen = self.risen if is_kept else (last, self.rise(last))
        return replace(plan, risen=risen, fallen=(last, self.fall(last)))


def make_schedule(config: ScheduleConfig, lengths: Lengths) -> Schedule:
    """Raises: ValueError when warmup and decay do not fit into the run."""
    phases, num_steps = schedule_phases(config, lengths), lengths.max_steps
    is_cosine = config.kind is ScheduleKind.cosine
    decay_steps = max(0, num_steps - 1 - phases.warmup_steps) if is_cosine else phases.decay_steps
    return Schedule(config.kind, num_steps, phases.warmup_steps, decay_steps, config.min_ratio)
