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

from bitnet_arch.kernels import kernels_for
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


@dataclass(frozen=True)
class Int8PerToken:
    """One scale for each token."""

    def quantize(self, x: Tensor) -> Int8Tokens:
        """[..., in], any float dtype."""
        x = x.detach()
        kernels = kernels_for(x) if x.dim() == 2 else None
        if kernels is not None and x.dtype in kernels.FLOATS:
            return Int8Tokens(*kernels.quantize_rows(x, MIN_SCALE))
        x = x.float()
        peak = torch.maximum(x.amax(-1, keepdim=True), -x.amin(-1, keepdim=True))
        inverse_scale = 127 / peak.clamp(min=MIN_SCALE)
        return Int8Tokens(round_clip(x * inverse_scale, -128, 127), inverse_scale)


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
