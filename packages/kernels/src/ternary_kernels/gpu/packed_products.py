"""int8 tokens times ternary weights of two bits: for few tokens, and for many.

Few tokens (a step of decoding) cost the time in which the weights come out of memory. The kernel reads them
once, 16 bytes for each thread, takes four levels by a shift and a mask and multiplies them with four codes of
a token by one instruction (dp4a): one instruction for each weight of one token. Where the outputs make too
few programs for a GPU, the inputs are split among several, and a second kernel adds their sums in order.

Many tokens (a prompt) are products of int8 on tensor cores, a plane of a unit at a time, whose codes are
unpacked once for each tile of tokens.

    y[t, r] = row_scale[r] / inverse[t] * sum_g scale[r, g] * (sum_(k in g) code[r, k] x[t, k])

Inner sums are int32, and exact; with one scale for a row so is all of the sum (to 2^24: 132,000 inputs). Sums
of groups are float32, whose order depends on the number of tokens. Nothing waits for the GPU, and all shapes
follow from those of the arguments, so CUDA graphs can capture a call once its kernels are compiled.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs
from __future__ import annotations

import math
from typing import Any

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from ternary_kernels.gpu.launch import FUSED, INTERPRETED, fits, launch, rounded_to
from ternary_kernels.gpu.packing import PLANE, UNIT, PackedMatrix
from ternary_kernels.torch_ops import FLOAT_TYPES

FEW = 8
"""Tokens up to which dp4a multiplies; more go to tensor cores, which take 16 at once."""
_UNITS = 8
"""Of one program's step through the inputs, for few tokens."""
_ROWS = {1: 16, 2: 16, 4: 16, 8: 8}
"""Outputs of one program, by tokens (the next power of two)."""
_OUTPUTS = 64
"""Of one program's tile, for many tokens: the sums of 64 times 128 do not fit into its registers."""
_PROGRAMS = 256
"""To which the inputs are split: two for each multiprocessor of an H100. Beyond them the kernel that adds the
parts would cost more than it brings."""
_LEVELS = tl.constexpr(0x03030303)
_ONES = tl.constexpr(0x01010101)
_SIGNS = tl.constexpr(-0x7F7F7F80)
"""0x80 in each byte."""
_PLANE = tl.constexpr(PLANE)
_WORDS = tl.constexpr(PLANE // 4)
_PLANES = tl.constexpr(UNIT // PLANE)


@triton.jit
def _signed(words, place: tl.constexpr):
    return (words << (24 - 8 * place)) >> 24


@triton.jit
def _dot4(a, b, total):
    """total + the product of four int8 in each word of a with those of b."""
    if INTERPRETED:
        for place in tl.static_range(4):
            total += _signed(a, place) * _signed(b, place)
        return total
    return tl.inline_asm_elementwise(
        "dp4a.s32.s32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, total], dtype=tl.int32, is_pure=True, pack=1
    )


@triton.jit
def _store(out, total, token, output, tokens, outputs, inverse, row_scales, split, SPLITS: tl.constexpr):
    """Sums of all inputs are scaled, those of a part are kept as they are."""
    here = (token < tokens)[:, None] & (output < outputs)[None, :]
    place = token.to(tl.int64)[:, None] * outputs + output[None, :]
    if SPLITS == 1:
        total *= tl.load(row_scales + output, mask=output < outputs, other=0.0)[None, :]
        total *= tl.div_rn(1.0, tl.load(inverse + token, mask=token < tokens, other=1.0))[:, None]
        tl.store(out + place, rounded_to(out.dtype.element_ty, total), mask=here)
    else:
        tl.store(out + tl.cast(split, tl.int64) * tokens * outputs + place, total, mask=here)


@triton.jit(do_not_specialize=["tokens"])
def _few(
    x,
    words,
    group_scales,
    inverse,
    row_scales,
    out,
    tokens,
    outputs,
    units,
    x_words,
    groups,
    TOKENS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    UNITS: tl.constexpr,
    GROUP_PLANES: tl.constexpr,
    STEPS: tl.constexpr,
    SPLITS: tl.constexpr,
):
    split = tl.program_id(1)
    token, output = tl.arange(0, TOKENS), tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    word = tl.arange(0, _WORDS)[None, None, :]
    per_unit: tl.constexpr = _PLANES // GROUP_PLANES if GROUP_PLANES else 1
    planes: tl.constexpr = GROUP_PLANES if GROUP_PLANES else _PLANES
    whole = tl.zeros([TOKENS, OUTPUTS, UNITS], tl.int32)
    scaled = tl.zeros([TOKENS, OUTPUTS, UNITS], tl.float32)
    for step in range(split * STEPS, (split + 1) * STEPS):
        unit = step * UNITS + tl.arange(0, UNITS)
        there = (output < outputs)[:, None] & (unit < units)[None, :]
        w_place = output.to(tl.int64)[:, None, None] * (units * _WORDS) + unit[None, :, None] * _WORDS + word
        levels = tl.load(words + w_place, mask=there[:, :, None], other=0)
        for group in tl.static_range(per_unit):
            dots = tl.zeros([TOKENS, OUTPUTS, UNITS, _WORDS], tl.int32)
            ones = tl.zeros([TOKENS, OUTPUTS, UNITS, _WORDS], tl.int32)
            for plane in tl.static_range(group * planes, (group + 1) * planes):
                x_word = unit[None, :, None] * (_PLANES * _WORDS) + plane * _WORDS + word
                known = (token < tokens)[:, None, None] & (x_word < x_words)
                x_place = token[:, None, None] * x_words + x_word
                # Of the products' shape, so that each thread loads the words that it multiplies.
                codes = tl.load(
                    x + tl.broadcast_to(x_place[:, None], dots.shape),
                    mask=tl.broadcast_to(known[:, None], dots.shape),
                    other=0,
                )
                four = (levels >> (2 * plane)) & _LEVELS
                if TOKENS == 1:  # the codes' sum is cheaper than a weight's code
                    ones = _dot4(codes, tl.full(dots.shape, _ONES, tl.int32), ones)
                else:
                    four = ((four | _SIGNS) - _ONES) ^ _SIGNS  # each level less 1, without a borrow
                dots = _dot4(tl.broadcast_to(four[None], dots.shape), codes, dots)
            found = tl.sum(dots - ones, 3)
            if GROUP_PLANES:
                place = output.to(tl.int64)[:, None] * groups + unit[None, :] * per_unit + group
                known_groups = there & (unit[None, :] * per_unit + group < groups)
                scale = tl.load(group_scales + place, mask=known_groups, other=0.0).to(tl.float32)
                scaled += found.to(tl.float32) * scale[None]
            else:
                whole += found
    total = tl.sum(scaled, 2) if GROUP_PLANES else tl.sum(whole, 2).to(tl.float32)
    _store(out, total, token, output, tokens, outputs, inverse, row_scales, split, SPLITS)


@triton.jit(do_not_specialize=["tokens"])
def _many(
    x,
    packed,
    group_scales,
    inverse,
    row_scales,
    out,
    tokens,
    outputs,
    units,
    cols,
    groups,
    TOKENS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    GROUP_PLANES: tl.constexpr,
    STEPS: tl.constexpr,
    SPLITS: tl.constexpr,
):
    split = tl.program_id(2)
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    output = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    place = tl.arange(0, _PLANE)
    per_unit: tl.constexpr = _PLANES // GROUP_PLANES if GROUP_PLANES else 1
    planes: tl.constexpr = GROUP_PLANES if GROUP_PLANES else _PLANES
    x_start = x + token.to(tl.int64)[:, None] * cols
    w_start = packed + output.to(tl.int64)[None, :] * (units * _PLANE) + place[:, None]
    whole = tl.zeros([TOKENS, OUTPUTS], tl.int32)
    scaled = tl.zeros([TOKENS, OUTPUTS], tl.float32)
    for unit in range(split * STEPS, tl.minimum((split + 1) * STEPS, units)):
        levels = tl.load(w_start + unit * _PLANE, mask=(output < outputs)[None, :], other=0)
        for group in tl.static_range(per_unit):
            sums = tl.zeros([TOKENS, OUTPUTS], tl.int32)
            for plane in tl.static_range(group * planes, (group + 1) * planes):
                col = unit * (_PLANES * _PLANE) + plane * _PLANE + place
                known = (token < tokens)[:, None] & (col < cols)[None, :]
                x_codes = tl.load(x_start + col[None, :], mask=known, other=0)
                w_codes = ((levels >> (2 * plane)) & 3).to(tl.int8) - 1
                sums += tl.dot(x_codes, w_codes, out_dtype=tl.int32)
            if GROUP_PLANES:
                index = unit * per_unit + group
                wanted = output < tl.where(index < groups, outputs, 0)
                scale = tl.load(group_scales + output.to(tl.int64) * groups + index, mask=wanted, other=0.0)
                scaled += sums.to(tl.float32) * scale.to(tl.float32)[None, :]
            else:
                whole += sums
    total = scaled if GROUP_PLANES else whole.to(tl.float32)
    _store(out, total, token, output, tokens, outputs, inverse, row_scales, split, SPLITS)


@triton.jit(do_not_specialize=["tokens"])
def _add_splits(
    parts, inverse, row_scales, out, tokens, outputs, SPLITS: tl.constexpr, OUTPUTS: tl.constexpr
):
    token, output = tl.program_id(0), tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    inside = output < outputs
    place = token.to(tl.int64) * outputs + output
    total = tl.zeros([OUTPUTS], tl.float32)
    for split in tl.static_range(SPLITS):
        total += tl.load(parts + tl.cast(split, tl.int64) * tokens * outputs + place, mask=inside, other=0.0)
    total *= tl.load(row_scales + output, mask=inside, other=0.0)
    total *= tl.div_rn(1.0, tl.load(inverse + token))
    tl.store(out + place, rounded_to(out.dtype.element_ty, total), mask=inside)


def _split(programs: int, steps: int) -> tuple[int, int]:
    """Steps of a program and parts of the inputs, none of them empty."""
    most = max(1, min(steps, _PROGRAMS // programs))
    per_program = triton.cdiv(steps, most)
    return per_program, triton.cdiv(steps, per_program)


def packed_product(x: Tensor, inverse: Tensor, matrix: PackedMatrix, dtype: torch.dtype) -> Tensor:
    """[tokens, out] in `dtype`, one of FLOAT_TYPES.

    Args:
        x: int8 [tokens, in]; inverse: float32 [tokens, 1], as `rounding.quantize_rows` gives them.

    Raises:
        ValueError: a dtype, shape or device that does not fit.
    """
    tokens, (outputs, width) = x.shape[0], matrix.data.shape
    groups, units = matrix.group_scales.shape[1], width // PLANE
    fits("x", x, (tokens, matrix.cols), torch.int8)
    fits("inverse", inverse, (tokens, 1), torch.float32)
    fits("data", matrix.data, (outputs, triton.cdiv(matrix.cols, UNIT) * PLANE), torch.uint8)
    fits("row_scales", matrix.row_scales, (outputs,), torch.float32)
    fits("group_scales", matrix.group_scales, (outputs, groups), torch.float16)
    out = x.new_empty((tokens, outputs), dtype=dtype)
    fits("out", out, (tokens, outputs), *FLOAT_TYPES)
    if not tokens:
        return out
    planes = matrix.cols // groups // PLANE if groups else 0
    options: dict[str, Any] = {"GROUP_PLANES": planes, **FUSED}
    if tokens <= FEW:
        options["TOKENS"] = triton.next_power_of_2(tokens)
        options["OUTPUTS"], options["UNITS"] = _ROWS[options["TOKENS"]], _UNITS
        programs: tuple[int, ...] = (triton.cdiv(outputs, options["OUTPUTS"]),)
        kernel, steps = _few, triton.cdiv(units, _UNITS)
        factors = x.view(torch.int32), matrix.data.view(torch.int32)
    else:
        options["TOKENS"] = min(64, triton.next_power_of_2(tokens))
        options["OUTPUTS"] = _OUTPUTS
        programs = triton.cdiv(tokens, options["TOKENS"]), triton.cdiv(outputs, options["OUTPUTS"])
        kernel, steps, factors = _many, units, (x, matrix.data)
    options["STEPS"], splits = _split(math.prod(programs), steps)
    sums = out if splits == 1 else x.new_empty((splits, tokens, outputs), dtype=torch.float32)
    sizes = tokens, outputs, units, factors[0].shape[1], groups
    scales = matrix.group_scales, inverse, matrix.row_scales
    launch(kernel, (*programs, splits), *factors, *scales, sums, *sizes, SPLITS=splits, **options)
    if splits > 1:
        grid = tokens, triton.cdiv(outputs, 256)
        launch(
            _add_splits, grid, sums, *scales[1:], out, tokens, outputs, SPLITS=splits, OUTPUTS=256, **FUSED
        )
    return out
