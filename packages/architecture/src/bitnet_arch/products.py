"""The product of rounded activations and quantized weights.

On a CPU, and on a GPU with kernels, int8 codes on both sides give exact integer sums, 4 to 9 times as fast as
float32 with AVX-512 VNNI (`torch._int_mm`), 1.3 to 2.5 times with AVX2 (our kernels); tensor cores on a GPU.
Everything else multiplies the values.
"""

from __future__ import annotations

from functools import cache
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor

from bitnet_arch.activations import Int8Tokens
from bitnet_arch.kernels import kernel_for
from bitnet_arch.rounding import Quantized
from wf_formats.errors import LoadError
from wf_formats.matrix import QuantizedMatrix


def quantized_linear(x: Quantized, weight: Quantized, dtype: torch.dtype) -> Tensor:
    """x W^T: [tokens, in] and [out, in] -> [tokens, out] in `dtype`."""
    if isinstance(x, Int8Tokens) and _is_codes_times_scales(weight) and _has_int8(x.codes, dtype):
        return int8_matmul(x, weight, dtype)
    return F.linear(x.values().to(dtype), weight.values().to(dtype))


def _is_codes_times_scales(weight: Quantized) -> TypeGuard[QuantizedMatrix[Tensor]]:
    return isinstance(weight, QuantizedMatrix) and weight.offsets is None


def _has_int8(codes: Tensor, dtype: torch.dtype) -> bool:
    """Whether products of int8 pay on the device: on a GPU they need kernels that scale their sums."""
    return codes.device.type == "cpu" or kernel_for("group_product", dtype, codes) is not None


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
    if (multiply := kernel_for("group_product", dtype, x.codes, codes, scales)) is not None:
        product: Tensor = multiply(x.codes, x.inverse_scale, codes, scales, dtype)
        return product
    return _by_groups(x, weight).to(dtype)


def scaled_sums(
    x: Tensor, y: Tensor, row_factors: Tensor, col_factors: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """x y, exact int32 sums of int8 [rows, n] and [n, cols], times factors float32 [rows, 1] and [cols]."""
    if x.device.type == "cpu" and (values := _float_sums(x, y)) is not None:
        return _scaled(values, row_factors, col_factors, dtype)
    sums = _int_mm(x, y)
    if (scale := kernel_for("scale_sums", dtype, sums, row_factors)) is not None:
        scaled: Tensor = scale(sums, row_factors, dtype, col_factors)
        return scaled
    return _scaled(sums.float(), row_factors, col_factors, dtype)


def _scaled(values: Tensor, row_factors: Tensor, col_factors: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Takes the memory of `values`."""
    values.mul_(row_factors)
    return (values if col_factors is None else values.mul_(col_factors)).to(dtype)


def _float_sums(x: Tensor, y: Tensor) -> Tensor | None:
    """x y, exact sums rounded to float32, by our kernel; None where PyTorch's product is there and faster."""
    if _has_fast_int_mm() or x.shape[1] % 4 or not x.shape[1]:
        return None
    weights = y.t().contiguous()
    if (multiply := kernel_for("group_product", torch.float32, x, weights)) is None:
        return None
    ones = torch.ones(max(len(x), len(weights)), 1, dtype=torch.float32)
    product: Tensor = multiply(x, ones[: len(x)], weights, ones[: len(weights)], torch.float32)
    return product


@cache
def _has_fast_int_mm() -> bool:
    """On x86-64 PyTorch multiplies int8 by a plain loop without AVX-512 VNNI."""
    found = torch.cpu.get_capabilities()
    return found["architecture"] != "x86_64" or bool(found["avx512_vnni"])


def _int_mm(x: Tensor, y: Tensor) -> Tensor:
    """x y, int32 contiguous [rows, cols], of int8 [rows, n] and [n, cols]."""
    if x.device.type == "cpu":
        _check_sums()
        return torch._int_mm(x, y)
    # Both factors with n innermost: the tensor cores' own order, 10 times as fast as others and always there.
    rows, cols = filled_up(x, y.t().contiguous())
    return torch._int_mm(rows, cols.t())[: x.shape[0], : y.shape[1]].contiguous()


@cache
def _check_sums() -> None:
    """Raises: LoadError where int8 sums on this CPU are not exact."""
    most = torch.full((32, 64), 127, dtype=torch.int8)
    if (torch._int_mm(most, most.t()) != 64 * 127 * 127).any():
        raise LoadError(
            "PyTorch adds int8 products in 16 bits here, which overflow: oneDNN is held to old instructions; "
            "take ONEDNN_MAX_CPU_ISA out of the environment"
        )


def filled_up(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The factors [rows, n] and [cols, n] with zeros at their ends, so that a GPU multiplies x and y^T.

    It wants more than 16 rows, and n and cols divisible by 8.
    """
    (rows, n), cols = x.shape, y.shape[0]
    more_rows, more_n, more_cols = max(17 - rows, 0), -n % 8, -cols % 8
    if more_rows or more_n:
        x = F.pad(x, (0, more_n, 0, more_rows))
    if more_n or more_cols:
        y = F.pad(y, (0, more_n, 0, more_cols))
    return x, y


def _by_groups(x: Int8Tokens, weight: QuantizedMatrix[Tensor]) -> Tensor:
    codes, scales = weight.codes, weight.scales
    num_groups = scales.shape[1]
    product = codes.new_zeros(x.codes.shape[0], codes.shape[0], dtype=torch.float32)
    groups = zip(x.codes.chunk(num_groups, 1), codes.chunk(num_groups, 1), scales.t(), strict=True)
    for x_group, w_group, scale in groups:
        product.addcmul_(_int_mm(x_group.contiguous(), w_group.t()), scale)
    return product.div_(x.inverse_scale)
