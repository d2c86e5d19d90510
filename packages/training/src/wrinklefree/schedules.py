"""Learning-rate factors as pure functions of the optimizer step.

cosine: linear rise over `warmup`, then half a cosine to `min_ratio` (Loshchilov & Hutter 2017).
wsd: rise, constant, then a linear fall over `decay` (MiniCPM, Hu et al. 2024, arXiv 2404.06395).
How the configured lengths become steps: config/lengths.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from wrinklefree.config.lengths import Lengths, schedule_phases
from wrinklefree.config.training import ScheduleConfig, ScheduleKind


@dataclass(frozen=True)
class Schedule:
    """Factor on the peak learning rate; lengths in optimizer steps."""

    kind: ScheduleKind
    total_steps: int
    warmup_steps: int
    decay_steps: int
    min_ratio: float

    def __call__(self, step: int) -> float:
        """Factor for the update with index `step` (0 for the first; the last has `min_ratio`)."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.kind is ScheduleKind.cosine:
            length = max(1, self.total_steps - self.warmup_steps - 1)
            progress = min(1.0, (step - self.warmup_steps) / length)
            return self.min_ratio + (1 - self.min_ratio) * 0.5 * (1 + math.cos(math.pi * progress))
        if self.kind is ScheduleKind.wsd and self.decay_steps:
            into_decay = step + 1 - (self.total_steps - self.decay_steps)
            if into_decay > 0:
                return 1 - (1 - self.min_ratio) * min(1.0, into_decay / self.decay_steps)
        return 1.0


def make_schedule(config: ScheduleConfig, lengths: Lengths) -> Schedule:
    """Raises: ValueError when warmup and decay do not fit into the run."""
    phases = schedule_phases(config, lengths)
    return Schedule(config.kind, lengths.max_steps, phases.warmup_steps, phases.decay_steps, config.min_ratio)
