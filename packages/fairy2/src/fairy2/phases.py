"""Complex weights as sums of phases: each plane has one of 1, i, -1, -i for each weight, times its scale.

Of Fairy2i (arXiv 2512.02901, section 4). A plane takes each weight to the axis that it is nearest to,
k = floor(2 angle / pi + 1/2) mod 4; its scales are the mean |Re| over the weights at 1 and -1, and the mean
|Im| over those at i and -i, of U and of W each. The next plane does the same with what is left over:

    rest_0 = V,    V_t = phases(rest_(t-1)),    rest_t = rest_(t-1) - V_t,    V' = V_1 + ... + V_T

A plane of a complex weight is two bits for two real weights, so T planes are T bits a weight, and eight
scales a matrix with T = 2. Axes are found by comparing, not by angles: there is no +-pi, and -0.0 is 0.
Turned by 45 degrees a phase is a pair of signs: on weights that are normal and independent one plane errs
as much as real binary weights do (1 - 2/pi of the energy), and two as much as two binary planes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fairy2.widely_linear import from_parts
from wf_formats.phases import PhaseMatrix as StoredPhases


@dataclass(frozen=True)
class PhaseMatrix:
    """A matrix [2n, 2m] that is a sum of planes."""

    codes: Tensor
    """int8 [planes, 2 (U, W), 2 (real, imaginary), n, m]: one of both is 1 or -1, the other 0."""
    scales: Tensor
    """float32 [planes, 2, 2]."""

    def phases(self) -> Tensor:
        """uint8 [planes, 2, n, m]: the exponent of i, 0 to 3."""
        real, imaginary = self.codes.unbind(2)
        return torch.where(real != 0, 1 - real, 2 - imaginary).to(torch.uint8)

    def to(self, convert: Callable[[Tensor], np.ndarray]) -> StoredPhases:
        """As files and kernels have it: `matrix.to(torch.Tensor.numpy)`."""
        return StoredPhases(convert(self.phases()), convert(self.scales))

    def values(self) -> Tensor:
        """float32 [2n, 2m], with gradients to the scales."""
        return from_parts(self.parts())

    def parts(self) -> Tensor:
        """float32 [2, 2, n, m]: U and W (widely_linear.py)."""
        scaled = [
            codes * scales[..., None, None] for codes, scales in zip(self.codes, self.scales, strict=True)
        ]
        return sum(scaled[1:], scaled[0])


def phases(parts: Tensor) -> Tensor:
    """int8 [..., 2 (real, imaginary), n, m] of the nearest axis of each complex number; of 0 it is 1.

    Halfway between two axes it is the one that comes first turning left, as floor has it.
    """
    re, im = parts.unbind(-3)
    minus = -re
    real = ((im < re) & (im >= minus)).char() - ((im > re) & (im <= minus)).char()
    imaginary = ((im >= re) & (im > minus)).char() - ((im <= re) & (im < minus)).char()
    real += (real == 0) & (imaginary == 0)
    return torch.stack([real, imaginary], -3)


def mean_scales(parts: Tensor, codes: Tensor) -> Tensor:
    """float32 [..., 2]: the mean magnitude of each part over the weights whose phase lies on its axis (0
    where none does), summed in float64, so that it does not depend on the order."""
    total = (parts * codes).sum((-1, -2), dtype=torch.float64)
    return (total / codes.abs().sum((-1, -2), dtype=torch.int64).clamp(min=1)).float()


def quantize_parts(parts: Tensor, num_planes: int, scales: Tensor | None = None) -> PhaseMatrix:
    """Plane after plane, each of what the ones before have left.

    Args:
        parts: float32 [2, 2, n, m].
        scales: [planes, 2, 2] to take; None: the means of the definition.
    """
    rest, codes, found = parts, [], []
    for plane in range(num_planes):
        codes.append(phases(rest))
        found.append(mean_scales(rest, codes[-1]) if scales is None else scales[plane])
        if plane < num_planes - 1:
            rest = rest - codes[-1] * found[-1][..., None, None]
    return PhaseMatrix(torch.stack(codes), torch.stack(found))
