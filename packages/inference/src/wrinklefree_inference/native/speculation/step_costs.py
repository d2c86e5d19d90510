"""What steps cost, as this machine has shown lately: seconds by the number of their tokens.

The median of the last `NUM_KEPT` steps of a size counts, so that one that was disturbed does not; it is
forgotten after `KEPT_STEPS` further steps, because costs grow with the length of texts and with what else
runs. A size without such a number is put between its neighbours, or follows from one of them by `SLOPE`.
"""

from __future__ import annotations

from collections import deque
from statistics import median

NUM_KEPT = 5
KEPT_STEPS = 512
SLOPE = 0.2
"""A token more makes a step longer by this share of a step of one, until measured: 16 cost 4.2 times one."""


class StepCosts:
    """Seconds by size. Args: slope is what is assumed until measured."""

    def __init__(self, slope: float = SLOPE) -> None:
        self._slope = slope
        self._seconds: dict[int, deque[float]] = {}
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
        self._noted_at[size] = self._now

    def seconds(self, size: int) -> float:
        """What a step of `size` tokens would take; in steps of one token if none was ever seen."""
        known = [n for n, noted_at in self._noted_at.items() if self._now - noted_at <= KEPT_STEPS]
        below = max((n for n in known if n <= size), default=None)
        above = min((n for n in known if n >= size), default=None)
        if below is None and above is None:
            return self._relative(size)
        if below is None or above is None:
            nearest = above if below is None else below
            assert nearest is not None
            return self._median(nearest) * self._relative(size) / self._relative(nearest)
        if below == above:
            return self._median(below)
        share = (size - below) / (above - below)
        return (1 - share) * self._median(below) + share * self._median(above)

    def _median(self, size: int) -> float:
        return median(self._seconds[size])

    def _relative(self, size: int) -> float:
        return 1 + self._slope * (size - 1)
