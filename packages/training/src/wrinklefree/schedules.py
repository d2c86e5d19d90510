"""Learning-rate factors as pure functions of the optimizer step.

cosine: linear rise over `warmup`, then half a cosine to `min_ratio` (Loshchilov & Hutter 2017).
wsd: rise, constant, then a linear fall over `decay` (MiniCPM, Hu et al. 2024, arXiv 2404.06395).
Lengths given in tokens are rounded up to whole steps once, since every step has as many tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from wrinklefree.config.schema import ScheduleConfig, ScheduleKind, StepUnit


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
        if self.kind is ScheduleKind.wsd:
            into_decay = step + 1 - (self.total_steps - self.decay_steps)
            if into_decay > 0:
                return 1 - (1 - self.min_ratio) * min(1.0, into_decay / self.decay_steps)
        return 1.0


def make_schedule(config: ScheduleConfig, total_steps: int, tokens_per_step: int) -> Schedule:
    """Resolve token lengths. Raises ValueError when warmup and decay do not fit into the run."""
    in_tokens = config.unit is StepUnit.tokens
    divisor = tokens_per_step if in_tokens else 1
    warmup = math.ceil(config.warmup / divisor)
    decay = math.ceil(config.decay / divisor) if config.kind is ScheduleKind.wsd else 0
    if warmup + decay > total_steps:
        raise ValueError(
            f"training.schedule: warmup ({warmup} steps) and decay ({decay} steps) exceed "
            f"the run's {total_steps} steps"
        )
    return Schedule(config.kind, total_steps, warmup, decay, config.min_ratio)
