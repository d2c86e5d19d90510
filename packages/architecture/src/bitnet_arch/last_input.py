"""What was made of a tensor, for layers that get the same one after the other.

Queries, keys and values of a block have one input, gate and up another; rounding it once serves all.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

Made = TypeVar("Made")


class LastInput(Generic[Made]):
    """Remembers the last tensor, as it was, and what was made of it."""

    def __init__(self) -> None:
        self._last: tuple[weakref.ref[Tensor], int, object, Made] | None = None

    def of(self, x: Tensor, make: Callable[[Tensor], Made], key: object = None) -> Made:
        """`make(x)`, or what that gave for the same tensor, unchanged since, and an equal key."""
        if x.is_inference() or torch.compiler.is_compiling():  # without a count of their changes
            return make(x)
        last = self._last
        if last is not None and last[0]() is x and last[1:3] == (x._version, key):
            return last[3]
        made = make(x)
        self._last = weakref.ref(x), x._version, key, made
        return made
