"""Learning-rate factors as pure functions of the optimizer step.

cosine: linear rise over `warmup`, then half a cosine to `min_ratio` (Loshchilov & Hutter 2017).
wsd: rise, constant, then a linear fall over `decay` (MiniCPM, Hu et al. 2024, arXiv 2404.06395).
How the configured lengths become steps: config/lengths.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from wrinklefree.config.lengths import Lengths, schedule_phases
from wrinklefree.config.training import ScheduleConfig, ScheduleKind


@dataclass(frozen=True)
class Schedule:
    """Factor on the peak learning rate; lengths in optimizer steps.

    Attributes:
        fallen: of a run whose length was planned anew midway, the last update before that and the share of
            the fall that it had: the rest of the fall is spread over the updates that are left.
    """

    kind: ScheduleKind
    total_steps: int
    warmup_steps: int
    decay_steps: int
    min_ratio: float
    fallen: tuple[int, float] | None = None

    def __call__(self, step: int) -> float:
        """Factor for the update with index `step` (0 for the first; the last has `min_ratio`)."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        share = self.fall(step)
        if self.kind is ScheduleKind.cosine:
            return self.min_ratio + (1 - self.min_ratio) * 0.5 * (1 + math.cos(math.pi * share))
        return 1 - (1 - self.min_ratio) * share

    def fall(self, step: int) -> float:
        """The share of the way down that update `step` has behind it: 0 before the fall, 1 at the end."""
        if self.fallen is not None:
            last, share = self.fallen
            return min(1.0, share + (1 - share) * (step - last) / max(1, self.total_steps - 1 - last))
        if self.kind is ScheduleKind.cosine:
            length = max(1, self.total_steps - self.warmup_steps - 1)
            return min(1.0, max(0, step - self.warmup_steps) / length)
        if self.kind is ScheduleKind.wsd and self.decay_steps:
            into_decay = step + 1 - (self.total_steps - self.decay_steps)
            return min(1.0, max(0, into_decay) / self.decay_steps)
        return 0.0

    def planned_anew(self, plan: Schedule, last: int) -> Schedule:
        """`plan`, of another length, as it goes on from this one after update `last`: without a jump.

        A fall that has begun here, or should have begun there, is spread over the updates that are left; a
        warmup is that of the new plan.
        """
        share = self.fall(last)
        if last < plan.warmup_steps or (share == 0 and plan.fall(last) == 0):
            return plan
        return replace(plan, fallen=(last, share))


def make_schedule(config: ScheduleConfig, lengths: Lengths) -> Schedule:
    """Raises: ValueError when warmup and decay do not fit into the run."""
    phases = schedule_phases(config, lengths)
    return Schedule(config.kind, lengths.max_steps, phases.warmup_steps, phases.decay_steps, config.min_ratio)
