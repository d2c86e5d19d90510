"""Rounding to int8 with a scale for each row or column: floats in, codes and inverse scales out, and back."""

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
    fits_matrix,
    launch,
    magnitude_bits,
    nan_unless_finite,
    nearest,
    rounded_to,
)
from ternary_kernels.torch_ops import FLOAT_TYPES

_TILE = 64
"""Rows and columns of a tile, and columns that share a stream of chance (csrc/training/rows.h, kStrip)."""


@triton.jit
def _inverse_of(peak_bits, smallest):
    peak = tl.maximum(peak_bits.to(tl.float32, bitcast=True), smallest)
    inverse = tl.div_rn(1.0, peak) * 127.0  # as PyTorch divides a number by a tensor
    return nan_unless_finite(inverse, peak_bits)


@triton.jit
def _uniform(seed, place, index):
    """[0, 1) of 24 bits, as csrc/training/kernels.inl: the hash of an element's number within its place."""
    mixed = tl.cast(seed, tl.uint32) ^ (place.to(tl.uint32) * 0x85EBCA6B + 0x27D4EB2F)
    h = index.to(tl.uint32) * 0x9E3779B1 + mixed
    h ^= h >> 16
    h *= 0x7FEB352D
    h ^= h >> 15
    h *= 0x846CA68B
    h ^= h >> 16
    return (h >> 8).to(tl.float32) * 5.9604644775390625e-08


@triton.jit
def _rounded(x, seed, place, index, BY_CHANCE: tl.constexpr):
    if BY_CHANCE:
        moved = x + _uniform(seed, place, index)
        x = tl.minimum(tl.maximum(tl.floor(moved), -127.0), 127.0)
    else:
        x = nearest(x)
    return code_of(x)


@triton.jit(do_not_specialize=["seed"])
def _quantize_rows(x, codes, inverse, cols, smallest, seed, BY_CHANCE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    start = row.to(tl.int64) * cols
    most = tl.zeros([BLOCK], tl.int32)
    for first in range(0, cols, BLOCK):
        place = first + tl.arange(0, BLOCK)
        most = tl.maximum(most, magnitude_bits(tl.load(x + start + place, mask=place < cols, other=0.0)))
    scale = _inverse_of(tl.max(most, 0), smallest)
    tl.store(inverse + row, scale)
    for first in range(0, cols, BLOCK):
        place = first + tl.arange(0, BLOCK)
        values = tl.load(x + start + place, mask=place < cols, other=0.0).to(tl.float32)
        found = _rounded(values * scale, seed, row, place, BY_CHANCE)
        tl.store(codes + start + place, found, mask=place < cols)


def quantize_rows(x: Tensor, smallest: float, seed: int | None = None) -> tuple[Tensor, Tensor]:
    """codes = round(x * inverse) int8 [rows, cols], inverse = 127 / max(max|x|, smallest) float32 [rows, 1].

    Args:
        x: float32, bfloat16 or float16 [rows, cols].
        seed: of stochastic rounding; None: nearest, ties to even.
    Returns:
        A row that is not finite has inverse NaN.
    """
    fits_matrix("x", x, FLOAT_TYPES)
    rows, cols = x.shape
    codes = torch.empty_like(x, dtype=torch.int8)
    inverse = x.new_empty((rows, 1), dtype=torch.float32)
    launch(
        _quantize_rows,
        (rows,),
        x,
        codes,
        inverse,
        cols,
        smallest,
        _bits(seed),
        BY_CHANCE=seed is not None,
        BLOCK=block_of(cols),
        **EXACT,
    )
    return codes, inverse


def _bits(seed: int | None) -> int:
    return (seed or 0) & 0xFFFFFFFF


@triton.jit
def _dequantize_rows(codes, inverse, out, cols, BLOCK: tl.constexpr):
    row, place = tl.program_id(0), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    places = row.to(tl.int64) * cols + place
    values = tl.load(codes + places, mask=place < cols, other=0).to(tl.float32)
    found = tl.div_rn(values, tl.load(inverse + row))
    tl.store(out + places, rounded_to(out.dtype.element_ty, found), mask=place < cols)


def dequantize_rows(codes: Tensor, inverse_scales: Tensor, dtype: torch.dtype) -> Tensor:
    """codes / inverse scales [rows, cols], divided in float32 and rounded once to `dtype`, one of FLOATS.

    Args:
        codes: int8 [rows, cols]; inverse_scales: float32 [rows, 1], as `quantize_rows` returns them.
    """
    rows, cols = codes.shape
    fits("codes", codes, (rows, cols), torch.int8)
    fits("inverse_scales", inverse_scales, (rows, 1), torch.float32)
    out = torch.empty_like(codes, dtype=dtype)
    block = block_of(cols)
    grid = rows, triton.cdiv(cols, block)
    launch(_dequantize_rows, grid, codes, inverse_scales, out, cols, BLOCK=block, **EXACT)
    return out


@triton.jit
def _tile(x, factors, rows, cols, TILE: tl.constexpr):
    """Values times factors [TILE, TILE], with their rows and columns and which of them there are."""
    col, row = tl.program_id(0) * TILE + tl.arange(0, TILE), tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = (row < rows)[:, None] & (col < cols)[None, :]
    values = tl.load(x + row.to(tl.int64)[:, None] * cols + col[None, :], mask=inside, other=0.0)
    factor = tl.load(factors + row, mask=row < rows, other=0.0)
    return values.to(tl.float32) * factor[:, None], row, col, inside


@triton.jit
def _column_peaks(x, factors, peaks, rows, cols, TILE: tl.constexpr):
    values, _, col, _ = _tile(x, factors, rows, cols, TILE)
    tl.atomic_max(peaks + col, tl.max(magnitude_bits(values), 0), mask=col < cols)


@triton.jit(do_not_specialize=["seed"])
def _quantize_columns(
    x,
    factors,
    peaks,
    codes,
    inverse,
    rows,
    cols,
    smallest,
    seed,
    BY_CHANCE: tl.constexpr,
    TILE: tl.constexpr,
):
    values, row, col, inside = _tile(x, factors, rows, cols, TILE)
    scale = _inverse_of(tl.load(peaks + col, mask=col < cols, other=0), smallest)
    tl.store(inverse + col, scale, mask=col < tl.where(tl.program_id(1) == 0, cols, 0))
    index = row[:, None] * 65536 + tl.arange(0, TILE)[None, :]
    found = _rounded(values * scale[None, :], seed, tl.program_id(0) * TILE, index, BY_CHANCE)
    tl.store(codes + col.to(tl.int64)[None, :] * rows + row[:, None], found, mask=inside)


def quantize_columns(
    x: Tensor, factors: Tensor, smallest: float, seed: int | None = None
) -> tuple[Tensor, Tensor]:
    """What `quantize_rows` makes of the transpose of x * factors: int8 [cols, rows], float32 [cols, 1].

    Args:
        factors: float32 [rows, 1].
    """
    fits_matrix("x", x)
    rows, cols = x.shape
    fits("factors", factors, (rows, 1), torch.float32)
    peaks = x.new_zeros(cols, dtype=torch.int32)
    grid = triton.cdiv(cols, _TILE), triton.cdiv(rows, _TILE)
    launch(_column_peaks, grid, x, factors, peaks, rows, cols, TILE=_TILE, **EXACT)
    codes = x.new_empty((cols, rows), dtype=torch.int8)
    inverse = x.new_empty((cols, 1), dtype=torch.float32)
    outputs = codes, inverse
    launch(
        _quantize_columns,
        grid,
        x,
        factors,
        peaks,
        *outputs,
        rows,
        cols,
        smallest,
        _bits(seed),
        BY_CHANCE=seed is not None,
        TILE=_TILE,
        **EXACT,
    )
    return outputs
