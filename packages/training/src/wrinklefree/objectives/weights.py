"""Weights of the objectives as a function of the step.

A curriculum is one further class here: anything callable with a step that returns the weight of
every objective, and that says which objectives it ever uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


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
