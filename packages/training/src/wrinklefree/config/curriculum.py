"""`training.curriculum`: phases of the run, each with its weights of the objectives.

training.curriculum=[{share: 0.3, weights: {layerwise: 1}},
                     {share: 0.2, weights: {continue_pretrain: 1}, transition: linear},
                     {share: 0.5, weights: {continue_pretrain: 1}}]
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from omegaconf import MISSING

from wrinklefree.config.ranges import number
from wrinklefree.course import Course

KEY = "training.curriculum"


class Transition(StrEnum):
    step = "step"
    """The weights hold from the phase's first step."""
    linear = "linear"
    """They go over the whole phase from those of the phase before to these."""


@dataclass
class PhaseConfig:
    share: float = number(MISSING, above=0, most=1)
    """Of the run; the shares of all phases sum to 1."""
    weights: dict[str, float] = field(default_factory=dict)
    """By objective, in place of its own `weight`; one that is not named has 0."""
    transition: Transition = Transition.step


def check_phases(phases: Sequence[PhaseConfig], objectives: Collection[str], max_steps: int) -> None:
    """Raises: ValueError naming the phase and the value that cannot be."""
    for index, phase in enumerate(phases):
        _check_weights(f"{KEY}[{index}]", phase.weights, objectives)
    if phases and phases[0].transition is Transition.linear:
        raise ValueError(
            f"{KEY}[0].transition=linear: the first phase has no weights to come from; give step"
        )
    if phases:
        _check_shares(phases, max_steps)


def _check_weights(where: str, weights: Mapping[str, float], objectives: Collection[str]) -> None:
    if unknown := sorted(weights.keys() - set(objectives)):
        raise ValueError(
            f"{where}.weights: '{unknown[0]}' is not in training.objectives, which has "
            f"{', '.join(objectives)}; name one of these, or add training.objectives.{unknown[0]}={{}}"
        )
    for name, weight in weights.items():
        if weight < 0:
            raise ValueError(f"{where}.weights.{name}={weight:g} is negative: give 0 or more")
    if not any(weights.values()):
        raise ValueError(f"{where}.weights={dict(weights)}: no objective has a weight above 0")


def phase_ends(phases: Sequence[PhaseConfig], course: Course) -> list[int]:
    """The first step after each phase; of phases that are over, where it would be by the pace of now."""
    return [round(course.steps(share)) for share in itertools.accumulate(phase.share for phase in phases)]


def least_steps(phases: Sequence[PhaseConfig]) -> int:
    """From so many steps on each phase has one, however its ends are rounded."""
    return max((math.floor(1 / phase.share) + 1 for phase in phases), default=1)


def _check_shares(phases: Sequence[PhaseConfig], max_steps: int) -> None:
    """Raises: ValueError for shares that do not sum to 1, and for a phase without a step."""
    shares = [phase.share for phase in phases]
    if not math.isclose(total := math.fsum(shares), 1, abs_tol=1e-6):
        raise ValueError(f"{KEY}: the shares {shares} sum to {total:g}; they have to sum to 1")
    ends = phase_ends(phases, Course(max_steps))
    for index, (start, end) in enumerate(itertools.pairwise([0, *ends])):
        if start == end:
            raise ValueError(
                f"{KEY}[{index}].share={shares[index]:g} of {max_steps} steps is no step: give it a larger "
                "share, or the run more steps"
            )
