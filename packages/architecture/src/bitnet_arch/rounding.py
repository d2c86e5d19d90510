"""What weights and activations share when they are rounded.

Rounding follows transformers' `integrations.bitnet` to the bit (it multiplies by the reciprocal of
the scale and clamps means and maxima at 1e-5), so a model trained here answers the same there.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

MIN_SCALE = 1e-5
"""Smallest mean |weight| and smallest max |activation| of a scale group (transformers' clamp)."""


class Quantized(Protocol):
    """A rounded tensor: a frozen dataclass, whose tensors a layer keeps for its backward pass."""

    def values(self) -> Tensor:
        """What it stands for, in the original's shape."""
        ...


def round_clip(x: Tensor, low: int, high: int) -> Tensor:
    """int8; `x` is overwritten."""
    return x.round_().clamp_(low, high).to(torch.int8)
