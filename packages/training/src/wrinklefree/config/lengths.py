"""How long a run and the phases of its learning rate are, in optimizer steps.

A phase (`training.schedule.warmup`, `decay`) is given as a share of the run when it is below 1, else
as a whole number of steps or tokens. Shares are rounded down to whole steps, so shares that add up
to at most 1 fit into every run; tokens are rounded up.

A run with `training.minutes` has the length that its plan says (stages/step_pace.py), another one each time
that it is planned; until then LIKELY_STEPS, or what schedule and curriculum need.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

from wrinklefree.config import curriculum
from wrinklefree.config.root import TrainConfig
from wrinklefree.config.training import GradientConfig, ScheduleConfig, ScheduleKind, StepUnit

LEAST_STEPS, LIKELY_STEPS, MOST_STEPS = 10, 1000, 10**9
"""Of a run that is planned into a time."""


@dataclass(frozen=True)
class Lengths:
    """tokens_per_step counts all ranks and accumulated passes."""

    tokens_per_step: int
    max_steps: int


@dataclass(frozen=True)
class Phases:
    """Lengths in optimizer steps."""

    warmup_steps: int
    decay_steps: int


def gradient_options(config: TrainConfig) -> GradientConfig:
    """`training` of a stage with gradients."""
    assert isinstance(config.training, GradientConfig)
    return config.training


def run_lengths(config: TrainConfig) -> Lengths:
    training, where = gradient_options(config), config.distributed
    sequences = training.batch_size * training.accumulate_steps * where.num_readers
    tokens_per_step = sequences * training.sequence_length_tokens
    if training.max_steps is not None:
        return Lengths(tokens_per_step, training.max_steps)
    if training.max_tokens is not None:
        return Lengths(tokens_per_step, math.ceil(training.max_tokens / tokens_per_step))
    least = least_steps(training, tokens_per_step)
    return Lengths(tokens_per_step, LIKELY_STEPS if least == MOST_STEPS else max(LIKELY_STEPS, least))


def least_steps(training: GradientConfig, tokens_per_step: int) -> int:
    """Steps from which on schedule and curriculum fit into a run; MOST_STEPS where they never do."""

    def fit(num_steps: int) -> bool:
        try:
            check_lengths(training, Lengths(tokens_per_step, num_steps))
        except ValueError:
            return False
        return True

    from_steps = min(MOST_STEPS, max(LEAST_STEPS, curriculum.least_steps(training.curriculum)))
    return from_steps + bisect_left(range(from_steps, MOST_STEPS), True, key=fit)


def check_lengths(training: GradientConfig, lengths: Lengths) -> None:
    """Raises: ValueError as `schedule_phases` and `check_phases` do, or where quantization never fades in."""
    schedule_phases(training.schedule, lengths)
    curriculum.check_phases(training.curriculum, training.objectives, lengths.max_steps)
    if training.lambda_warmup_steps >= lengths.max_steps:
        raise ValueError(
            f"training.lambda_warmup_steps={training.lambda_warmup_steps}: the run has {lengths.max_steps} "
            "steps, so no step would be fully quantized; give fewer"
        )


def schedule_phases(schedule: ScheduleConfig, lengths: Lengths) -> Phases:
    """Raises: ValueError naming the key whose value is not a length, or phases that exceed the run."""
    warmup = _steps("warmup", schedule.warmup, schedule.unit, lengths)
    decay = _steps("decay", schedule.decay, schedule.unit, lengths)
    decay = decay if schedule.kind is ScheduleKind.wsd else 0
    if warmup + decay > lengths.max_steps:
        raise ValueError(
            f"training.schedule: warmup={schedule.warmup:g} ({warmup} steps) and decay={schedule.decay:g} "
            f"({decay} steps) exceed the run's {lengths.max_steps} steps. Shares of the run always fit: "
            "training.schedule.warmup=0.02 training.schedule.decay=0.2"
        )
    return Phases(warmup, decay)


def _steps(key: str, length: float, unit: StepUnit, lengths: Lengths) -> int:
    if 0 <= length < 1:
        # The small addend keeps products such as 0.29 * 100 from falling below the whole number.
        return math.floor(length * lengths.max_steps + 1e-6)
    if length < 0 or length != math.floor(length):
        raise ValueError(
            f"training.schedule.{key}={length:g} is neither a share of the run (from 0 to below 1) "
            f"nor a whole number of {unit.value}"
        )
    return math.ceil(length / lengths.tokens_per_step) if unit is StepUnit.tokens else int(length)
