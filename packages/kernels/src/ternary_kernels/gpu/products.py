"""Integer products and their scales."""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs
from __future__ import annotations

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from ternary_kernels.gpu.launch import EXACT, FUSED, fits, launch, rounded_to
from ternary_kernels.training.rows import FLOATS

_TOKENS, _OUTPUTS = 64, 128
"""Of one program's tile of a product."""
_ROWS, _COLS = 8, 256
"""Of one program's tile of sums."""
_LEAST = 32
"""Inputs that a product of int8 on tensor cores takes at once."""


@triton.jit
def _scale_sums(
    sums,
    row_factors,
    col_factors,
    out,
    rows,
    cols,
    BY_COLUMN: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    row, col = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1) * COLS + tl.arange(0, COLS)
    inside = (row < rows)[:, None] & (col < cols)[None, :]
    place = row.to(tl.int64)[:, None] * cols + col[None, :]
    values = tl.load(sums + place, mask=inside, other=0).to(tl.float32)
    values *= tl.load(row_factors + row, mask=row < rows, other=0.0)[:, None]
    if BY_COLUMN:
        values *= tl.load(col_factors + col, mask=col < cols, other=0.0)[None, :]
    tl.store(out + place, rounded_to(out.dtype.element_ty, values), mask=inside)


def scale_sums(
    sums: Tensor, row_factors: Tensor, dtype: torch.dtype, col_factors: Tensor | None = None
) -> Tensor:
    """sums * row_factors * col_factors in `dtype`; the memory of `sums` is taken for float32.

    Args:
        sums: int32 [rows, cols].
        row_factors: float32 [rows, 1].
        col_factors: float32 [cols]; None: 1.
    """
    rows, cols = sums.shape
    fits("sums", sums, (rows, cols), torch.int32)
    fits("row_factors", row_factors, (rows, 1), torch.float32)
    if col_factors is not None:
        fits("col_factors", col_factors, (cols,), torch.float32)
    out = sums.view(torch.float32) if dtype is torch.float32 else sums.new_empty((rows, cols), dtype=dtype)
    fits("out", out, (rows, cols), *FLOATS)
    launch(
        _scale_sums,
        (triton.cdiv(rows, _ROWS), triton.cdiv(cols, _COLS)),
        sums,
        row_factors,
        row_factors if col_factors is None else col_factors,
        out,
        rows,
        cols,
        BY_COLUMN=col_factors is not None,
        ROWS=_ROWS,
        COLS=_COLS,
        **EXACT,
    )
    return out


@triton.jit
def _group_product(
    x,
    inverse,
    codes,
    scales,
    out,
    tokens,
    outputs,
    groups,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    TOKENS: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    output = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    here, wanted, inside = token < tokens, output < outputs, tl.arange(0, BLOCK) < SIZE
    x_start = x + token.to(tl.int64)[:, None] * (groups * SIZE) + tl.arange(0, BLOCK)[None, :]
    w_start = codes + output.to(tl.int64)[None, :] * (groups * SIZE) + tl.arange(0, BLOCK)[:, None]
    total = tl.zeros([TOKENS, OUTPUTS], tl.float32)
    for group in range(groups):
        x_codes = tl.load(x_start + group * SIZE, mask=here[:, None] & inside[None, :], other=0)
        w_codes = tl.load(w_start + group * SIZE, mask=wanted[None, :] & inside[:, None], other=0)
        scale = tl.load(scales + output.to(tl.int64) * groups + group, mask=wanted, other=0.0)
        total += tl.dot(x_codes, w_codes, out_dtype=tl.int32).to(tl.float32) * scale[None, :]
    total *= tl.div_rn(1.0, tl.load(inverse + token, mask=here, other=1.0))[:, None]
    place = token.to(tl.int64)[:, None] * outputs + output[None, :]
    tl.store(out + place, rounded_to(out.dtype.element_ty, total), mask=here[:, None] & wanted[None, :])


def group_product(x: Tensor, inverse: Tensor, codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """[tokens, out] in `dtype`: int32 sums of each group times its scale, over the token's inverse scale.

    Args:
        x: int8 [tokens, in]; inverse: float32 [tokens, 1].
        codes: int8 [out, in]; scales: float32 [out, groups]. Groups are summed in order, in float32.
    """
    (tokens, cols), (outputs, groups) = x.shape, scales.shape
    if cols % groups:
        raise ValueError(f"{cols} inputs do not divide into {groups} groups")
    fits("x", x, (tokens, cols), torch.int8)
    fits("inverse", inverse, (tokens, 1), torch.float32)
    fits("codes", codes, (outputs, cols), torch.int8)
    fits("scales", scales, (outputs, groups), torch.float32)
    out = x.new_empty((tokens, outputs), dtype=dtype)
    fits("out", out, (tokens, outputs), *FLOATS)
    launch(
        _group_product,
        (triton.cdiv(tokens, _TOKENS), triton.cdiv(outputs, _OUTPUTS)),
        x,
        inverse,
        codes,
        scales,
        out,
        tokens,
        outputs,
        groups,
        SIZE=cols // groups,
        BLOCK=max(_LEAST, triton.next_power_of_2(cols // groups)),
        TOKENS=_TOKENS,
        OUTPUTS=_OUTPUTS,
        **FUSED,
    )
    return out
