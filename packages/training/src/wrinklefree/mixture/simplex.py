"""Projections on the bounded simplex {w : floor <= w_i <= cap, sum w = 1}, exact up to rounding.

    euclidean   min |w - v|^2            w_i = clip(v_i + x)
    kl          min sum w_i ln(w_i/v_i)  w_i = clip(v_i e^x)

Both are increasing in one number x, and which weights are at a bound changes only at 2 n places of it. So
these are sorted, the two neighbours are found between which the sum passes 1, and x is solved there in closed
form (Wang and Lu 2015, arXiv 1503.01002, for the first). O(n^2) for n sources, without iteration.
Clipping and then dividing by the sum, which is often done, breaks the bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wrinklefree.config.mixture import Projection

Projected = Callable[[Sequence[float]], list[float]]
"""Logarithms of weights, in any scale -> weights on the bounded simplex."""


@dataclass(frozen=True)
class Bounds:
    """Of each weight; `check` says whether there are such weights."""

    floor: float
    cap: float

    def check(self, num_sources: int) -> None:
        """Raises: ValueError where no weights of so many sources are within the bounds and sum to 1."""
        if self.floor > self.cap:
            raise ValueError(f"floor={self.floor:g} is above cap={self.cap:g}: lower the floor")
        if self.floor * num_sources > 1:
            raise ValueError(
                f"floor={self.floor:g} for each of {num_sources} sources is more than 1 together: give at "
                f"most {math.floor(1000 / num_sources) / 1000:g}"
            )
        if self.cap * num_sources < 1:
            raise ValueError(
                f"cap={self.cap:g} for each of {num_sources} sources is less than 1 together: give at least "
                f"{math.ceil(1000 / num_sources) / 1000:g}"
            )

    def contain(self, weights: Sequence[float]) -> bool:
        return all(self.floor <= weight <= self.cap for weight in weights)

    def clip(self, value: float) -> float:
        return min(max(value, self.floor), self.cap)


def euclidean(values: Sequence[float], bounds: Bounds) -> list[float]:
    """The nearest point. Args: finite values. Raises: ValueError as `Bounds.check`."""
    breaks = [(bounds.floor - value, bounds.cap - value) for value in values]

    def at(x: float) -> list[float]:
        return [bounds.clip(value + x) for value in values]

    def solve(free: Sequence[int], rest: float) -> float:
        return (rest - math.fsum(values[i] for i in free)) / len(free)

    return _solved(breaks, bounds, at, solve)


def kl(log_values: Sequence[float], bounds: Bounds) -> list[float]:
    """The point of least relative entropy to weights that are given by their logarithms, in any scale.

    Args: finite logarithms. Raises: ValueError as `Bounds.check`.
    """
    low, high = math.log(bounds.floor) if bounds.floor else -math.inf, math.log(bounds.cap)
    breaks = [(low - value, high - value) for value in log_values]

    def at(x: float) -> list[float]:
        return [bounds.clip(math.exp(min(value + x, high))) for value in log_values]

    def solve(free: Sequence[int], rest: float) -> float:
        largest = max(log_values[i] for i in free)
        total = math.fsum(math.exp(log_values[i] - largest) for i in free)
        return math.log(rest / total) - largest

    return _solved(breaks, bounds, at, solve)


def projected(kind: Projection, bounds: Bounds) -> Projected:
    """The projection of weights given by their logarithms."""
    if kind is Projection.kl:
        return lambda log_values: kl(log_values, bounds)
    return lambda log_values: euclidean(softmax(log_values), bounds)


def softmax(log_values: Sequence[float]) -> list[float]:
    largest = max(log_values)
    powers = [math.exp(value - largest) for value in log_values]
    total = math.fsum(powers)
    return [power / total for power in powers]


def _solved(
    breaks: Sequence[tuple[float, float]],
    bounds: Bounds,
    at: Callable[[float], list[float]],
    solve: Callable[[Sequence[int], float], float],
) -> list[float]:
    """Args: breaks are where each weight leaves the floor and reaches the cap; `at` gives the weights of an
    x; `solve` the x at which the free ones sum to the rest."""
    num_sources = len(breaks)
    bounds.check(num_sources)
    if bounds.floor * num_sources >= 1 or bounds.cap * num_sources <= 1:
        return [1 / num_sources] * num_sources
    places = sorted({place for pair in breaks for place in pair})
    # At the first place all are at the floor, which is too little together; at the last all are at the cap,
    # which is enough but for rounding.
    right = next((i for i, x in enumerate(places) if math.fsum(at(x)) >= 1), len(places) - 1)
    if right == 0:  # floors that are 1 together but for rounding
        return at(places[0])
    left_x, right_x = places[right - 1], places[right]
    free = [i for i, (low, high) in enumerate(breaks) if low <= left_x and right_x <= high]
    at_floor = sum(right_x <= low for low, _ in breaks)
    rest = 1 - bounds.floor * at_floor - bounds.cap * (num_sources - at_floor - len(free))
    if not free:
        return at(right_x)
    if rest <= bounds.floor * len(free):  # the others have taken all that is left, up to rounding
        return at(left_x)
    return at(solve(free, rest))
