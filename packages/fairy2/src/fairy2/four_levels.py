"""`levels4`: real weights of two bits with two scales a matrix, to measure two planes of phases by.

Levels are -b, -a, a, b, where a is the mean magnitude of the weights below a threshold and b of those above
it. The threshold, 1.23 times the mean magnitude, is that of the best four levels for normal weights (Lloyd
1982 and Max 1960: 0.9816 standard deviations; levels 0.4528 and 1.5104, relative squared error 0.1175), for
which a and b are those levels too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bitnet_arch import Quantizer
from fairy2.alphabet import Alphabet
from fairy2.solve import solve

_THRESHOLD = 0.9816 / math.sqrt(2 / math.pi)
"""Over the mean magnitude."""
_ALPHABET = Alphabet(torch.tensor([[[0.0, -1.0, 1.0, 0.0]], [[-1.0, 0.0, 0.0, 1.0]]]))
_CODES = (-2, -1, 1, 2)
"""Of its letters."""
_ROOM = 0.45
"""How far a master weight may be from its level, over the distance to where another code begins, before the
mean of its level is taken out: up to twice as far then."""
_TOLERANCE = 2e-6
"""Of scales, over the larger one."""


@dataclass(frozen=True)
class LevelMatrix:
    """A matrix of the levels a and b with signs."""

    codes: Tensor
    """int8 [out, in]: -2, -1, 1 or 2 for -b, -a, a, b."""
    scales: Tensor
    """float32 [2]: a, b."""

    def values(self) -> Tensor:
        """float32 [out, in], with gradients to the scales."""
        return self.codes.sign() * torch.where(self.codes.abs() == 1, self.scales[0], self.scales[1])


@dataclass(frozen=True)
class FourLevels(Quantizer):
    has_integer_products: ClassVar[bool] = False
    name = "levels4"

    def check(self, in_features: int) -> None:
        """Every row fits."""

    def quantize(self, weight: Tensor) -> LevelMatrix:
        weight = weight.detach().float()
        magnitudes = weight.abs()
        codes = _codes(weight, _threshold(magnitudes))
        classes = ((codes.abs() == code) for code in (1, 2))
        scales = [_mean(magnitudes * inside, inside.sum()) for inside in classes]
        return LevelMatrix(codes, torch.stack(scales))

    def at_scales(self, latent: Tensor, scales: Tensor) -> LevelMatrix:
        """The nearest levels of given scales [2]."""
        return LevelMatrix(_codes(latent.detach().float(), scales.mean()), scales)

    def solve(self, weight: Tensor, curvature: Tensor, num_sweeps: int) -> LevelMatrix:
        """Levels and scales with a small error on inputs of these second moments (solve.py)."""
        start = self.quantize(weight).scales
        letters, scales = solve(weight, curvature, _ALPHABET, start, num_sweeps)
        return LevelMatrix(torch.tensor(_CODES, dtype=torch.int8)[letters], scales)

    def master_weights(self, chosen: LevelMatrix, latent: Tensor) -> Tensor:
        """float32 [out, in] near `latent` with these codes, and scales up to rounding of their means.

        Raises:
            ValueError: there are none, as the threshold does not lie between the scales.
        """
        values, signs = chosen.values().double(), chosen.codes.sign().double()
        small, large = chosen.scales.double()
        threshold = _threshold(values.abs())
        box = _ROOM * torch.stack([threshold - small, large - threshold, small]).amin().clamp(min=0)
        moved = torch.minimum(torch.maximum(latent.double() - values, -box), box) * signs
        for code in (1, 2):
            inside = chosen.codes.abs() == code
            moved -= inside * _mean(moved * inside, inside.sum())
        weight = (values + moved * signs).float()
        found = self.quantize(weight)
        close = (found.scales - chosen.scales).abs().amax() <= _TOLERANCE * chosen.scales.amax()
        is_wrong = (found.codes != chosen.codes) & (values != 0)
        if is_wrong.any() or not close:
            raise ValueError(
                f"no weights quantize to levels {chosen.scales.tolist()} with these codes: train them as "
                "they are rounded, without calibration"
            )
        return weight


def _mean(magnitudes: Tensor, count: Tensor | int) -> Tensor:
    """float32 [], summed in float64, so that it does not depend on the order; 0 of none."""
    total = magnitudes.sum(dtype=torch.float64)
    return (total / max(int(count), 1)).float()


def _threshold(magnitudes: Tensor) -> Tensor:
    return _THRESHOLD * _mean(magnitudes, magnitudes.numel())


def _codes(weight: Tensor, threshold: Tensor) -> Tensor:
    far = (weight.abs() > threshold).to(torch.int8) + 1
    return torch.where(weight < 0, -far, far)


def make(name: str) -> FourLevels:
    """`levels4`."""
    assert name == FourLevels.name, name
    return FourLevels()
