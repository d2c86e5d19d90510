"""The maths of 4-bit weights, defined once: codes q in [-8, 7], a scale s for each group of inputs of a row.

    symmetric       s = max(max(w) / 7, max(-w) / 8)          q = clip(round(w / s), -8, 7)
                    W' = s q
    zero points     s = (max(w, 0) - min(w, 0)) / 15          z = round(-min(w, 0) / s) - 8
                    W' = s (q - z)                            q = clip(round(w / s) + z, -8, 7)

So nothing is cut off, and weights that are such values already stay what they are (with zero points: where
the codes reach both ends). What is better cut off, a method decides beforehand (wf_ptq.awq).

Scales are numbers that files hold, so that no export rounds: float16 ones. With zero points they have 7
significant bits and z up to 4, so that float16 also holds -s (z + 8), the minimum of a group that GGUF's Q4_1
stores (and s z, which is an exact offset here); that moves a scale by at most 0.4 %.

Activations are left as they are (W4A16). Sources: Lin et al. 2023 (AWQ, arXiv 2306.00978) for the grid with
zero points; ggml's Q4_0 and Q4_1 for what blocks hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bitnet_arch.activations import KeepActivations
from bitnet_arch.quantizers.base import Quantizer, refuse_rows
from bitnet_arch.rounding import MIN_SCALE, round_clip
from wf_formats.matrix import INT4_BITS, QuantizedMatrix
from wf_formats.schemes import INT4_SCHEMES, Int4Scheme

_LOW, _HIGH = -8, 7
_SCALE_BITS = 7
"""Significant bits of a scale with a zero point; times one of 4 bits they are the 11 of float16."""


@dataclass(frozen=True)
class Int4Quantizer(Quantizer):
    """Rounds weights to 4 bits, inputs not at all."""

    scheme: Int4Scheme
    activation = KeepActivations()
    has_integer_products: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return self.scheme.name

    @property
    def group_size(self) -> int:
        return self.scheme.group_size

    def check(self, in_features: int) -> None:
        if in_features % self.group_size:
            alike = [scheme for scheme in INT4_SCHEMES.values() if scheme.has_zeros == self.scheme.has_zeros]
            refuse_rows(in_features, self.group_size, {scheme.name: scheme.group_size for scheme in alike})

    def quantize(self, weight: Tensor) -> QuantizedMatrix[Tensor]:
        weight = weight.detach().float()
        self.check(weight.shape[1])
        grouped = weight.view(weight.shape[0], -1, self.group_size)
        low, high = grouped.amin(-1).clamp_(max=0), grouped.amax(-1).clamp_(min=0)
        if not self.scheme.has_zeros:
            scales = _halves(torch.maximum(high / _HIGH, low / _LOW))
            codes = round_clip(grouped / scales.unsqueeze(-1), _LOW, _HIGH)
            return QuantizedMatrix(codes.view(weight.shape), scales, INT4_BITS)
        scales = _halves(_short((high - low) / (_HIGH - _LOW)))
        zeros = (-low / scales).round_().clamp_(max=_HIGH - _LOW).add_(_LOW)
        levels = (grouped / scales.unsqueeze(-1)).round_().add_(zeros.unsqueeze(-1))
        codes = round_clip(levels, _LOW, _HIGH)
        return QuantizedMatrix(codes.view(weight.shape), scales, INT4_BITS, -scales * zeros)


def _halves(scales: Tensor) -> Tensor:
    """To the nearest that float16 holds, not below MIN_SCALE; float32."""
    return scales.clamp(min=MIN_SCALE).half().float()


def _short(scales: Tensor) -> Tensor:
    """To the nearest with `_SCALE_BITS` significant bits."""
    mantissa, exponent = torch.frexp(scales)
    unit = 2.0**_SCALE_BITS
    return torch.ldexp((mantissa * unit).round_() / unit, exponent)
