"""Weights of the objectives as a function of the step.

Anything callable with a step that returns the weight of every objective, and that says which objectives
it ever uses.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from wrinklefree.config.curriculum import PhaseConfig, Transition, phase_ends
from wrinklefree.course import Course
from wrinklefree.objectives.base import ObjectiveConfig


class WeightSchedule(Protocol):
    def __call__(self, step: int) -> Mapping[str, float]:
        """Weight of every objective at an optimizer step (0 for the first)."""

    def ever_active(self) -> frozenset[str]:
        """Objectives whose weight is above 0 at some step."""


@dataclass(frozen=True)
class ConstantWeights:
    weights: Mapping[str, float]

    def __call__(self, step: int) -> Mapping[str, float]:
        return self.weights

    def ever_active(self) -> frozenset[str]:
        return frozenset(name for name, weight in self.weights.items() if weight > 0)


class Curriculum:
    """Weights by phase. In a linear one of n steps the last step is the first with its own weights."""

    def __init__(self, phases: Sequence[PhaseConfig], course: Course) -> None:
        self.phases = list(phases)
        self.ends = phase_ends(phases, course)

    def __call__(self, step: int) -> Mapping[str, float]:
        index = min(bisect_right(self.ends, step), len(self.phases) - 1)
        phase = self.phases[index]
        if phase.transition is Transition.step:
            return phase.weights
        start = self.ends[index - 1]
        way = min(1.0, (step - start + 1) / (self.ends[index] - start))
        before = self.phases[index - 1].weights
        names = before.keys() | phase.weights.keys()
        return {n: (1 - way) * before.get(n, 0.0) + way * phase.weights.get(n, 0.0) for n in names}

    def ever_active(self) -> frozenset[str]:
        return frozenset(
            name for phase in self.phases for name, weight in phase.weights.items() if weight > 0
        )


def weight_schedule(
    objectives: Mapping[str, ObjectiveConfig], curriculum: Sequence[PhaseConfig], course: Course
) -> WeightSchedule:
    """The weights of the curriculum, where there is one; else each objective's own."""
    if curriculum:
        return Curriculum(curriculum, course)
    return ConstantWeights({name: options.weight for name, options in objectives.items()})
