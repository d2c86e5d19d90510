"""The products of the backward pass in fp8 (experimental): 8-bit floats on both sides, sums in float32.

Both factors of a product are rounded to e4m3 (Micikevicius et al. 2022, arXiv 2209.05433), each row along the
sum by its largest value, and multiplied by torch._scaled_mm: tensor cores of GPUs with compute capability 9.0
or more, PyTorch's reference on a CPU, which is exact and slow. Rows of one scale make e5m2's range needless,
also for gradients. A gradient errs by about 4 % (of its norm; int8: 1 %).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bitnet_arch.activations import peaks
from bitnet_arch.rounding import Quantized

_LARGEST = torch.finfo(torch.float8_e4m3fn).max
_SMALLEST = 1e-30
"""Smallest max |value| of a row; below, values are 0."""
_ALIGNMENT = 16
"""Of the sizes that the product takes on a GPU."""


@dataclass(frozen=True)
class Fp8Gradients:
    """A `GradientProducts`."""

    def output_dtype(self, input_dtype: torch.dtype) -> torch.dtype:
        return torch.bfloat16

    def of_input(self, grad: Tensor, weight: Quantized, dtype: torch.dtype) -> Tensor:
        return _product(grad, weight.values().t(), dtype)

    def of_weight(self, grad: Tensor, x: Quantized, dtype: torch.dtype) -> Tensor:
        return _product(grad.t(), x.values().t(), dtype)


def why_no_fp8(device: torch.device) -> str | None:
    """Why the products cannot be had there; None: they can."""
    ones = torch.ones(_ALIGNMENT, _ALIGNMENT, device=device)
    try:
        found = _product(ones, ones, torch.float32)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        return str(error).strip().partition("\n")[0]
    return None if bool((found == _ALIGNMENT).all()) else "its products of ones are wrong"


def _product(x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    """x y^T in `dtype`: [rows, n] and [columns, n] -> [rows, columns]."""
    (left, left_scales), (right, right_scales) = _rounded(x), _rounded(y)
    sums = torch._scaled_mm(
        left, right.t(), scale_a=left_scales, scale_b=right_scales.t(), out_dtype=torch.bfloat16
    )
    return sums[: x.shape[0], : y.shape[0]].to(dtype)


def _rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """e4m3 [rows, n] of both sizes aligned, and float32 [rows, 1]: what to multiply it by."""
    missing = [-size % _ALIGNMENT for size in x.shape]
    values = F.pad(x.float(), (0, missing[1], 0, missing[0])).contiguous()
    scales = peaks(values).clamp(min=_SMALLEST) / _LARGEST
    return (values / scales).clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn), scales
