"""What steps cost, as this machine has shown lately: seconds by the number of their tokens.

The median of the last `NUM_KEPT` steps of a size counts, so that one that was disturbed does not; it is
forgotten after `KEPT_STEPS` further steps, because costs grow with the length of texts and with what else
runs. A size without such a number lies between its neighbours, or follows from the last one by `SLOPE`.
"""

from __future__ import annotations

from collections import deque
from statistics import median

import numpy as np
from numpy.typing import NDArray

NUM_KEPT = 5
KEPT_STEPS = 512
SLOPE = 0.3
"""A token more makes a step longer by this share of a step of one, until measured (0.2 to 0.5 were seen)."""


class StepCosts:
    """Seconds by size. Args: slope is what is assumed until measured."""

    def __init__(self, slope: float = SLOPE) -> None:
        self._slope = slope
        self._seconds: dict[int, deque[float]] = {}
        self._medians: dict[int, float] = {}
        self._noted_at: dict[int, int] = {}
        self._now = 0

    @property
    def is_known(self) -> bool:
        """Whether any step was seen."""
        return self._now > 0

    def note(self, size: int, seconds: float) -> None:
        """A step of `size` tokens took so long."""
        self._now += 1
        kept = self._seconds.setdefault(size, deque(maxlen=NUM_KEPT))
        if self._now - self._noted_at.get(size, self._now) > KEPT_STEPS:
            kept.clear()
        kept.append(seconds)
        self._medians[size], self._noted_at[size] = median(kept), self._now

    def seconds(self, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """What steps of so many tokens would take; in steps of one token if none was ever seen."""
        known = sorted(
            size for size, noted_at in self._noted_at.items() if self._now - noted_at <= KEPT_STEPS
        )
        if not known:
            return self._relative(sizes)
        between = np.interp(sizes, known, [self._medians[size] for size in known])
        return between * self._relative(sizes) / self._relative(np.clip(sizes, known[0], known[-1]))

    def _relative(self, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(1 + self._slope * (sizes - 1), np.float64)
