"""When a policy takes its turn. Imports no PyTorch.

It follows from numbers of sequences alone, never from a clock, so that a resumed run takes the same turns.
Several ranks share the sequences of a turn, so it costs each of them less than is counted here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from wrinklefree.config.mixture import Policy
from wrinklefree.config.training import GradientConfig

EVERY_STEPS, LEAST_STEPS = 200, 20
SCORED_SHARE = 0.04
"""Of the sequences of a run, at most, that are scored beside it. In float32 one costs what it costs to train
on it (1.02); with training.precision=int8, where a third of its products stays in float32, 1.62
(docs/results.md)."""


@dataclass(frozen=True)
class Turns:
    """The first after step `first`, further ones after each multiple of `every`."""

    first: int
    every: int

    def is_after(self, step: int) -> bool:
        return step == self.first or (step > self.first and step % self.every == 0)


def turns_of(training: GradientConfig, num_sources: int) -> Turns:
    """As configured; what is not follows from the cost of a turn, and the first of `influence`, which serves
    all steps that follow, comes as soon as the optimizer's second moments say something."""
    every = _every_steps(training, num_sources)
    first = training.mixture.first_step
    if first is None:
        first = min(LEAST_STEPS, every) if training.mixture.policy is Policy.influence else every
    return Turns(first, every)


def _every_steps(training: GradientConfig, num_sources: int) -> int:
    mixture = training.mixture
    if mixture.every_steps is not None:
        return mixture.every_steps
    if mixture.policy is not Policy.influence:
        return EVERY_STEPS
    trained = training.batch_size * training.accumulate_steps
    return max(LEAST_STEPS, math.ceil(scored_sequences(training, num_sources) / (SCORED_SHARE * trained)))


def scored_sequences(training: GradientConfig, num_sources: int) -> int:
    """Of a turn of `influence`, in whole passes."""
    options, size = training.mixture.influence, pass_sequences(training)
    passes = num_sources * -(-options.sequences // size)
    return size * (passes + len(options.probes) * -(-options.probe_sequences // size))


def pass_sequences(training: GradientConfig) -> int:
    """Of a pass that gradients are taken in."""
    return min(training.batch_size, training.mixture.influence.sequences)
