"""The two products of a quantized layer's backward pass, in the precision that was asked for.

For y = x' W'^T with the quantized x' [tokens, in] and W' [out, in]:

    gradient of x:  g W'      (over outputs)        gradient of W:  g^T x'     (over tokens)

float32: as the values are. bf16: factors rounded to bfloat16, sums in float32. int8: g is rounded to int8
as well, with a scale for each token in the first product and for each output in the second, so that both
are exact integer products times scales, as the forward pass is. fp8_experimental: fp8.py. Master weights,
their gradients and the optimizer stay in float32 with all; but with float32 a layer's output is bfloat16, as
under autocast.

Sources: int8 gradients with a scale for each token or channel: Wortsman et al. 2023 (SwitchBack, arXiv
2304.13013); stochastic rounding of gradients: Chen et al. 2020 (StatQuant, arXiv 2010.14298).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from bitnet_arch.activations import Int8Tokens, round_tokens
from bitnet_arch.fp8 import Fp8Gradients
from bitnet_arch.kernels import kernel_for
from bitnet_arch.last_input import LastInput
from bitnet_arch.products import scaled_sums
from bitnet_arch.rounding import Quantized
from wf_formats.matrix import QuantizedMatrix

_SMALLEST = 1e-30
"""Smallest max |gradient| of a scale; below, codes are 0."""


_BF16: LastInput[Tensor] = LastInput()
"""Values of the codes that layers with one input share, whose backward passes follow each other."""


class GradientProducts(Protocol):
    """How a layer computes its backward pass; instances are immutable, layers share one."""

    def output_dtype(self, input_dtype: torch.dtype) -> torch.dtype:
        """Of the layer's output, and so of the gradient that comes back."""
        ...

    def of_input(self, grad: Tensor, weight: Quantized, dtype: torch.dtype) -> Tensor:
        """[tokens, out] and [out, in] -> [tokens, in] in `dtype`."""
        ...

    def of_weight(self, grad: Tensor, x: Quantized, dtype: torch.dtype) -> Tensor:
        """[tokens, out] and [tokens, in] -> [out, in] in `dtype`."""
        ...


@dataclass(frozen=True)
class Float32Gradients:
    """Products of the values in the gradient's own dtype."""

    def output_dtype(self, input_dtype: torch.dtype) -> torch.dtype:
        return input_dtype

    def of_input(self, grad: Tensor, weight: Quantized, dtype: torch.dtype) -> Tensor:
        return (grad @ weight.values().to(grad.dtype)).to(dtype)

    def of_weight(self, grad: Tensor, x: Quantized, dtype: torch.dtype) -> Tensor:
        return (grad.t() @ x.values().to(grad.dtype)).to(dtype)


@dataclass(frozen=True)
class Bf16Gradients:
    """Factors in bfloat16; integer codes are exact in it, so only their scales are rounded."""

    def output_dtype(self, input_dtype: torch.dtype) -> torch.dtype:
        return torch.bfloat16

    def of_input(self, grad: Tensor, weight: Quantized, dtype: torch.dtype) -> Tensor:
        return (grad.bfloat16() @ _bf16_weight(weight)).to(dtype)

    def of_weight(self, grad: Tensor, x: Quantized, dtype: torch.dtype) -> Tensor:
        return (grad.bfloat16().t() @ _bf16_tokens(x)).to(dtype)


def _bf16_tokens(x: Quantized) -> Tensor:
    if not isinstance(x, Int8Tokens):
        return x.values().bfloat16()
    return _BF16.of(x.codes, lambda _: _divided(x), id(x.inverse_scale))


def _divided(x: Int8Tokens) -> Tensor:
    dequantize = kernel_for("dequantize_rows", torch.bfloat16, x.codes, x.inverse_scale)
    if dequantize is not None:
        values: Tensor = dequantize(x.codes, x.inverse_scale, torch.bfloat16)
        return values
    made = torch.empty_like(x.codes, dtype=torch.bfloat16)
    return torch.div(x.codes, x.inverse_scale, out=made)  # in float32, and rounded in the same pass


def _bf16_weight(weight: Quantized) -> Tensor:
    if not isinstance(weight, QuantizedMatrix) or weight.offsets is not None:
        return weight.values().bfloat16()
    codes, scales = weight.codes, weight.scales
    if (dequantize := kernel_for("dequantize_groups", torch.bfloat16, codes, scales)) is not None:
        values: Tensor = dequantize(codes, scales, torch.bfloat16)
        return values
    scales = scales.bfloat16()
    grouped = codes.bfloat16().view(codes.shape[0], -1, weight.group_size or codes.shape[1])
    factors = scales.reshape(-1, 1, 1) if scales.dim() < 2 else scales.unsqueeze(-1)
    return grouped.mul_(factors).view(codes.shape)


@dataclass(frozen=True)
class Int8Gradients:
    """Gradients in int8, for layers whose inputs and weights are integer codes.

    Attributes:
        stochastic: round gradients up or down by chance, so that their mean is right; else to the nearest.
    """

    stochastic: bool = False

    def output_dtype(self, input_dtype: torch.dtype) -> torch.dtype:
        return torch.bfloat16

    def of_input(self, grad: Tensor, weight: Quantized, dtype: torch.dtype) -> Tensor:
        assert isinstance(weight, QuantizedMatrix)
        rounded = round_tokens(grad.contiguous(), _SMALLEST, self._seed())
        if weight.scales.dim() == 0:
            factors = weight.scales / rounded.inverse_scale
            return scaled_sums(rounded.codes, weight.codes, factors, None, dtype)
        columns, column_scales = _int8_columns(weight)
        return scaled_sums(rounded.codes, columns, 1 / rounded.inverse_scale, column_scales, dtype)

    def of_weight(self, grad: Tensor, x: Quantized, dtype: torch.dtype) -> Tensor:
        assert isinstance(x, Int8Tokens)
        rounded = self._columns(grad.contiguous(), 1 / x.inverse_scale)
        return scaled_sums(rounded.codes, x.codes, 1 / rounded.inverse_scale, None, dtype)

    def _columns(self, grad: Tensor, factors: Tensor) -> Int8Tokens:
        """The gradient times factors [tokens, 1], transposed: a scale for each output."""
        if (quantize := kernel_for("quantize_columns", grad.dtype, grad)) is not None:
            return Int8Tokens(*quantize(grad, factors, _SMALLEST, self._seed()))
        return round_tokens((grad.float() * factors).t().contiguous(), _SMALLEST, self._seed())

    def _seed(self) -> int | None:
        return int(torch.randint(2**31, ()).item()) if self.stochastic else None


def _int8_columns(weight: QuantizedMatrix[Tensor]) -> tuple[Tensor, Tensor]:
    """The weight in int8 with one scale for each input: codes [out, in], scales [in].

    The products over outputs need it: there, weights that are summed differ in their group's scale. Values
    are off by at most 1/254 of the largest of their column.
    """
    if (compute := kernel_for("int8_columns", weight.scales.dtype, weight.codes, weight.scales)) is not None:
        found: tuple[Tensor, Tensor] = compute(weight.codes, weight.scales, _largest_code(weight))
        return found
    codes, scales = weight.codes, weight.scales.view(weight.codes.shape[0], -1)
    largest = scales.amax(0, keepdim=True)
    multiples = (scales / largest * (127 / _largest_code(weight))).round_().to(torch.int8)
    columns = codes.view(*scales.shape, -1) * multiples.unsqueeze(-1)
    column_scales = (largest[0] * (_largest_code(weight) / 127)).repeat_interleave(columns.shape[2])
    return columns.view(codes.shape), column_scales


def _largest_code(weight: QuantizedMatrix[Any]) -> int:
    return 1 if weight.bits == 2 else 2 ** (weight.bits - 1)


FLOAT32 = Float32Gradients()
PRECISIONS: dict[str, GradientProducts] = {
    "float32": FLOAT32,
    "bf16": Bf16Gradients(),
    "int8": Int8Gradients(),
    "int8_stochastic": Int8Gradients(stochastic=True),
    "fp8_experimental": Fp8Gradients(),
}
INTEGER_PRECISIONS = ("int8", "int8_stochastic")
"""Those for quantizers with integer codes alone."""
