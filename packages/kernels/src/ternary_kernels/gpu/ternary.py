"""Master weights to ternary codes and absmean scales, and codes and scales to values.

Magnitudes are summed in float64, rows apart, so scales are the CPU's unless a mean lies within some 1e-13 of
the middle between two floats.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs
from __future__ import annotations

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from ternary_kernels.gpu.launch import (
    EXACT,
    block_of,
    code_of,
    fits,
    launch,
    magnitude_bits,
    nan_unless_finite,
    nearest,
    rounded_to,
)
from ternary_kernels.training.rows import groups_of

_GROUPS = 16
"""Of one program."""
_CODES = 4096
"""Of one program, with one scale for all."""


@triton.jit
def _ternary_codes(weight, inverse):
    return code_of(nearest(tl.minimum(tl.maximum(weight * inverse, -1.0), 1.0)))


@triton.jit
def _ternarize_groups(
    weight,
    codes,
    scales,
    groups,
    smallest,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    GROUPS: tl.constexpr,
):
    group = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)
    inside = (group < groups)[:, None] & (tl.arange(0, BLOCK) < SIZE)[None, :]
    place = group.to(tl.int64)[:, None] * SIZE + tl.arange(0, BLOCK)[None, :]
    values = tl.load(weight + place, mask=inside, other=0.0)
    mean = (tl.sum(tl.abs(values).to(tl.float64), 1) / SIZE).to(tl.float32)
    inverse = tl.div_rn(1.0, tl.maximum(mean, smallest))
    inverse = nan_unless_finite(inverse, tl.max(magnitude_bits(values), 1))
    tl.store(scales + group, tl.div_rn(1.0, inverse), mask=group < groups)
    tl.store(codes + place, _ternary_codes(values, inverse[:, None]), mask=inside)


@triton.jit
def _row_sums(weight, sums, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    total = tl.zeros([BLOCK], tl.float64)
    most = tl.zeros([BLOCK], tl.int32)
    for first in range(0, cols, BLOCK):
        place = first + tl.arange(0, BLOCK)
        values = tl.load(weight + row.to(tl.int64) * cols + place, mask=place < cols, other=0.0)
        total += tl.abs(values).to(tl.float64)
        most = tl.maximum(most, magnitude_bits(values))
    tl.store(sums + row, nan_unless_finite(tl.sum(total, 0), tl.max(most, 0)))


@triton.jit
def _codes_of(weight, inverse, codes, count, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(weight + place, mask=place < count, other=0.0)
    tl.store(codes + place, _ternary_codes(values, tl.load(inverse)), mask=place < count)


def ternarize(weight: Tensor, group_size: int | None, smallest: float) -> tuple[Tensor, Tensor]:
    """Codes int8 [out, in] and scales float32 [] or [out, groups] of master weights (absmean).

    The scale of weights that are not all finite is NaN.

    Raises:
        ValueError: rows do not divide into groups.
    """
    fits("weight", weight, (weight.shape[0], weight.shape[1]), torch.float32)
    if group_size is None:
        return _by_matrix(weight, smallest)
    return _by_group(weight, group_size, smallest)


def _by_group(weight: Tensor, size: int, smallest: float) -> tuple[Tensor, Tensor]:
    rows, groups = weight.shape[0], groups_of(weight.shape[1], size)
    codes = torch.empty_like(weight, dtype=torch.int8)
    scales = weight.new_empty((rows, groups))
    launch(
        _ternarize_groups,
        (triton.cdiv(scales.numel(), _GROUPS),),
        weight,
        codes,
        scales,
        scales.numel(),
        smallest,
        SIZE=size,
        BLOCK=triton.next_power_of_2(size),
        GROUPS=_GROUPS,
        **EXACT,
    )
    return codes, scales


def _by_matrix(weight: Tensor, smallest: float) -> tuple[Tensor, Tensor]:
    rows, cols = weight.shape
    sums = weight.new_empty(rows, dtype=torch.float64)
    launch(_row_sums, (rows,), weight, sums, cols, BLOCK=block_of(cols, 1024), **EXACT)
    inverse = 1.0 / (sums.sum() / weight.numel()).float().clamp(min=smallest)
    codes = torch.empty_like(weight, dtype=torch.int8)
    count = weight.numel()
    launch(_codes_of, (triton.cdiv(count, _CODES),), weight, inverse, codes, count, BLOCK=_CODES, **EXACT)
    return codes, 1.0 / inverse


@triton.jit
def _dequantize_groups(codes, scales, out, cols, group_size, row_scales, BLOCK: tl.constexpr):
    row, col = tl.program_id(0), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = col < cols
    place = row.to(tl.int64) * cols + col
    scale = tl.load(scales + row.to(tl.int64) * row_scales + col // group_size, mask=inside, other=0.0)
    scale = rounded_to(out.dtype.element_ty, scale).to(tl.float32)
    found = tl.load(codes + place, mask=inside, other=0).to(tl.float32) * scale
    tl.store(out + place, rounded_to(out.dtype.element_ty, found), mask=inside)


def dequantize_groups(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """codes * scales [out, in] in `dtype`, one of FLOATS, to which scales are rounded before.

    Args:
        codes: int8 [out, in]; scales: float32 [], [out] or [out, groups].

    Raises:
        ValueError: rows do not divide into groups.
    """
    rows, cols = codes.shape
    row_scales = 0 if scales.dim() == 0 else scales.numel() // rows
    groups = row_scales or 1
    if cols % groups:
        raise ValueError(f"{cols} inputs do not divide into {groups} groups")
    fits("codes", codes, (rows, cols), torch.int8)
    fits("scales", scales, ((), (rows,), (rows, groups))[scales.dim()], torch.float32)
    out = torch.empty_like(codes, dtype=dtype)
    block = block_of(cols)
    programs = rows, triton.cdiv(cols, block)
    sizes = cols, cols // groups, row_scales
    launch(_dequantize_groups, programs, codes, scales, out, *sizes, BLOCK=block, **EXACT)
    return out
