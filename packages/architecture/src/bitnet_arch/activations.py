"""What a BitLinear does to its input before the product.

Int8 per token (BitNet b1.58, Ma et al. 2024, arXiv 2402.17764):
    a = 127 / max|x|,  x_q = clip(round(a x), -128, 127),  x' = x_q / a
or nothing, for weights that are quantized alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bitnet_arch.kernels import kernel_for
from bitnet_arch.rounding import MIN_SCALE, Quantized, round_clip


class ActivationQuantizer(Protocol):
    """Rounds the input of a layer."""

    def quantize(self, x: Tensor) -> Quantized:
        """[..., in], any float dtype; without gradient."""
        ...


@dataclass(frozen=True)
class Int8Tokens:
    """Codes int8 [..., in] and inverse scales float32 [..., 1]; the value is codes / inverse scale."""

    codes: Tensor
    inverse_scale: Tensor

    def values(self) -> Tensor:
        """float32 [..., in]."""
        return self.codes.to(torch.float32, copy=True).div_(self.inverse_scale)


def round_tokens(x: Tensor, smallest: float, seed: int | None = None) -> Int8Tokens:
    """[..., in], any float dtype, each token with a scale of its own.

    Args:
        smallest: max |x| of a token counts as no less.
        seed: of rounding up or down by chance, so that the mean is right; None: to the nearest.
    """
    quantize = kernel_for("quantize_rows", x.dtype, x) if x.dim() == 2 else None
    if quantize is not None:
        return Int8Tokens(*quantize(x, smallest, seed))
    x = x.float()
    return round_by(x, peaks(x), smallest, seed)


def peaks(x: Tensor) -> Tensor:
    """float32 [..., in] -> max |x| of each token [..., 1]."""
    return torch.maximum(x.amax(-1, keepdim=True), -x.amin(-1, keepdim=True))


def round_by(x: Tensor, largest: Tensor, smallest: float, seed: int | None = None) -> Int8Tokens:
    """`round_tokens` of float32 [..., in] with max |x| [..., 1] given."""
    inverse_scale = 127 / largest.clamp(min=smallest)
    scaled = x * inverse_scale
    if seed is not None:
        generator = torch.Generator(x.device).manual_seed(seed)
        noise = torch.rand(x.shape, generator=generator, device=x.device)
        scaled = scaled.add_(noise).floor_().clamp_(-127, 127)
    return Int8Tokens(round_clip(scaled, -128, 127), inverse_scale)


@dataclass(frozen=True)
class Int8PerToken:
    """One scale for each token."""

    def quantize(self, x: Tensor) -> Int8Tokens:
        """[..., in], any float dtype."""
        return round_tokens(x.detach(), MIN_SCALE)


@dataclass(frozen=True)
class Unrounded:
    """A tensor as it is."""

    x: Tensor

    def values(self) -> Tensor:
        return self.x


@dataclass(frozen=True)
class KeepActivations:
    """No rounding, for weights that are quantized alone."""

    def quantize(self, x: Tensor) -> Unrounded:
        return Unrounded(x.detach())
