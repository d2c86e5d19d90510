"""The ternary maths, defined once: weight codes and scales, int8 activations.

Weights (BitNet b1.58, Ma et al. 2024, arXiv 2402.17764, eq. 1-3, "absmean"):
    s = mean(|W|) over the scale group,  q = clip(round(W / s), -1, 1),  W' = s q
A scale group is the whole matrix (`tensor`) or runs of 64 or 128 inputs of one output row (`group`).

Activations (same paper, per token):  a = 127 / max|x|,  x_q = clip(round(a x), -128, 127),  x' = x_q / a

Rounding follows transformers' `integrations.bitnet` to the bit (it multiplies by the reciprocal of
the scale and clamps means and maxima at 1e-5), so a model trained here answers the same there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

MIN_SCALE = 1e-5
"""Smallest mean |weight| and smallest max |activation| of a scale group (transformers' clamp)."""
GROUP_SIZES = (64, 128)


class Granularity(StrEnum):
    """What shares one weight scale."""

    TENSOR = "tensor"
    GROUP = "group"


@dataclass(frozen=True)
class WeightScheme:
    """How weights are quantized: `tensor`, or `group` with `group_size` inputs per scale."""

    granularity: Granularity = Granularity.TENSOR
    group_size: int | None = None

    def __post_init__(self) -> None:
        if self.granularity is Granularity.TENSOR and self.group_size is not None:
            raise ValueError(f"granularity tensor takes no group size, got {self.group_size}")
        if self.granularity is Granularity.GROUP and self.group_size not in GROUP_SIZES:
            raise ValueError(f"group size {self.group_size} is not one of {GROUP_SIZES}")

    @classmethod
    def parse(cls, text: str) -> WeightScheme:
        """Reads `tensor`, `group64` or `group128`."""
        if text == Granularity.TENSOR:
            return cls()
        size = text.removeprefix(Granularity.GROUP)
        if size != text and size.isdecimal():
            return cls(Granularity.GROUP, int(size))
        known = ["tensor", *(f"group{size}" for size in GROUP_SIZES)]
        raise ValueError(f"unknown weight scheme {text!r}; known: {', '.join(known)}")

    def __str__(self) -> str:
        return f"{self.granularity}{self.group_size or ''}"

    def num_groups(self, in_features: int) -> int:
        """Scales per output row. Raises ValueError where rows do not divide."""
        if self.group_size is None:
            return 1
        if in_features % self.group_size:
            fitting = ["tensor", *(f"group{size}" for size in GROUP_SIZES if in_features % size == 0)]
            raise ValueError(
                f"rows of {in_features} inputs do not divide into groups of {self.group_size}; "
                f"schemes that fit: {', '.join(fitting)}"
            )
        return in_features // self.group_size


def ternary_codes_and_scales(weight: Tensor, scheme: WeightScheme) -> tuple[Tensor, Tensor]:
    """Absmean quantization.

    Args:
        weight: [out, in], any float dtype.
        scheme: what shares a scale.
    Returns:
        codes int8 [out, in] in {-1, 0, 1}; scales float32, [] for `tensor`, [out, in/group] for `group`.
    Raises:
        ValueError: rows do not divide into groups.
    """
    weight = weight.detach().float()
    out_features, in_features = weight.shape
    if scheme.granularity is Granularity.TENSOR:
        scratch = weight.abs()
        inverse = 1.0 / scratch.mean().clamp(min=MIN_SCALE)
        return _round_clip(torch.mul(weight, inverse, out=scratch), -1, 1), 1.0 / inverse
    grouped = weight.view(out_features, scheme.num_groups(in_features), -1)
    scratch = grouped.abs()
    inverse = 1.0 / scratch.mean(-1).clamp(min=MIN_SCALE)
    codes = _round_clip(torch.mul(grouped, inverse.unsqueeze(-1), out=scratch), -1, 1)
    return codes.view(out_features, in_features), 1.0 / inverse


def dequantize(codes: Tensor, scales: Tensor) -> Tensor:
    """W' = s q, float32 [out, in], from codes [out, in] and scales [] or [out, groups]."""
    values = codes.to(torch.float32, copy=True)  # scaled in place: fresh pages cost more than the sums
    if scales.dim() == 0:
        return values.mul_(scales)
    values.view(*scales.shape, -1).mul_(scales.unsqueeze(-1))
    return values


def quantize_activation(x: Tensor) -> tuple[Tensor, Tensor]:
    """int8 per token: x[..., in] -> codes int8 [..., in], inverse scales float32 [..., 1].

    The value is codes / inverse_scale, with inverse_scale = 127 / max|x|.
    """
    x = x.detach().float()
    inverse_scale = 127 / torch.maximum(x.amax(-1, keepdim=True), -x.amin(-1, keepdim=True)).clamp(
        min=MIN_SCALE
    )
    return _round_clip(x * inverse_scale, -128, 127), inverse_scale


def dequantize_activation(codes: Tensor, inverse_scale: Tensor) -> Tensor:
    """x' float32 [..., in] of `quantize_activation`."""
    return codes.to(torch.float32, copy=True).div_(inverse_scale)


def _round_clip(x: Tensor, low: int, high: int) -> Tensor:
    return x.round_().clamp_(low, high).to(torch.int8)
