"""The product of rounded activations and quantized weights.

On a CPU int8 codes on both sides give exact integer sums (`torch._int_mm`, 4 to 9 times as fast as
float32 on AVX-512 VNNI); everything else multiplies the values.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bitnet_arch.activations import Int8Tokens
from bitnet_arch.kernels import kernels_for
from bitnet_arch.rounding import Quantized
from wf_formats.matrix import QuantizedMatrix


def quantized_linear(x: Quantized, weight: Quantized, dtype: torch.dtype) -> Tensor:
    """x W^T: [tokens, in] and [out, in] -> [tokens, out] in `dtype`."""
    if isinstance(x, Int8Tokens) and isinstance(weight, QuantizedMatrix) and x.codes.device.type == "cpu":
        return int8_matmul(x, weight, dtype)
    return F.linear(x.values().to(dtype), weight.values().to(dtype))


def int8_matmul(x: Int8Tokens, weight: QuantizedMatrix[Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
    """[tokens, out] in `dtype`, exact int32 sums per scale group.

    Args:
        x: [tokens, in].
        weight: [out, in], one scale for the matrix, for each row or for each group of inputs.
    """
    codes, scales = weight.codes, weight.scales
    if scales.dim() == 0:
        return scaled_sums(x.codes, codes.t(), scales / x.inverse_scale, None, dtype)
    if scales.dim() == 1:
        return scaled_sums(x.codes, codes.t(), 1 / x.inverse_scale, scales, dtype)
    if (kernels := kernels_for(dtype, x.codes, codes, scales)) is not None:
        product: Tensor = kernels.group_product(x.codes, x.inverse_scale, codes, scales, dtype)
        return product
    return _by_groups(x, weight).to(dtype)


def scaled_sums(
    x: Tensor, y: Tensor, row_factors: Tensor, col_factors: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """x y, exact int32 sums of int8 [rows, n] and [n, cols], times factors float32 [rows, 1] and [cols]."""
    sums = torch._int_mm(x, y)
    if (kernels := kernels_for(dtype, sums, row_factors)) is not None:
        scaled: Tensor = kernels.scale_sums(sums, row_factors, dtype, col_factors)
        return scaled
    values = sums.float().mul_(row_factors)
    return (values if col_factors is None else values.mul_(col_factors)).to(dtype)


def _by_groups(x: Int8Tokens, weight: QuantizedMatrix[Tensor]) -> Tensor:
    codes, scales = weight.codes, weight.scales
    num_groups = scales.shape[1]
    product = codes.new_zeros(x.codes.shape[0], codes.shape[0], dtype=torch.float32)
    groups = zip(x.codes.chunk(num_groups, 1), codes.chunk(num_groups, 1), scales.t(), strict=True)
    for x_group, w_group, scale in groups:
        product.addcmul_(torch._int_mm(x_group.contiguous(), w_group.t()), scale)
    return product.div_(x.inverse_scale)
