"""Ranges of numbers that people and files may give: of sampling, of a model's settings."""

from __future__ import annotations

import math
from dataclasses import dataclass

INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class Bounds:
    """A range of one option.

    Attributes:
        is_open: The minimum itself is excluded.
        note: What a special value means.
    """

    minimum: float
    maximum: float
    is_open: bool = False
    note: str = ""

    def __str__(self) -> str:
        low = f"{'(' if self.is_open else '['}{self.minimum}"
        return f"in {low}, {self.maximum}]" + (f" ({self.note})" if self.note else "")

    def __contains__(self, value: float) -> bool:
        is_above = value > self.minimum if self.is_open else value >= self.minimum
        return is_above and value <= self.maximum


def is_number(value: object, bounds: Bounds, is_whole: bool = False) -> bool:
    """Whether a value of a JSON file is a finite number (true and false are none) within bounds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return (isinstance(value, int) or (not is_whole and math.isfinite(value))) and value in bounds
