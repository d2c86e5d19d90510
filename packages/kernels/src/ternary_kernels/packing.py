"""Packed matrices from codes and scales. The byte layouts are in packages/kernels/FORMATS.md."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ternary_kernels import _native
from ternary_kernels._native import Matrix
from wf_formats.phases import check_summed

PackedTernary = Literal["t2", "t5"]
TernaryFormat = Literal["auto", PackedTernary]
_GROUP_FORMATS = {4: "q4", 6: "q6", 8: "q8"}


def default_format() -> PackedTernary:
    """t5 where the processor unpacks it at the speed of its memory (AVX-512), else t2: the usual winner of a
    race (`format_race`), for what is too small for one."""
    return "t5" if _native.info()["isa"].startswith("avx512") else "t2"


def pack_ternary(
    codes: NDArray[np.int8],
    scales: NDArray[np.float32] | float,
    format: TernaryFormat = "auto",
    num_threads: int = 0,
) -> Matrix:
    """A ternary matrix.

    Args:
        codes: int8 [rows, cols] in {-1, 0, 1}.
        scales: float32 [] or [rows], kept as they are; or [rows, cols / group], group a multiple of 32, kept
            as float16 times a power of two per row (relative error below 2^-11 for scales of one row that lie
            within a factor of 2^15).
        format: `t2` (2 bits) or `t5` (3 weights in 5 bits); `auto` takes
            `default_format()`; for a whole model `load_model` finds the faster one.
        num_threads: 0 for one per core.

    Raises:
        ValueError: shapes that do not fit, a code out of range, a scale that is not finite.
    """
    if format == "auto":
        format = default_format()
    return _native.pack(np.ascontiguousarray(codes, np.int8), _float32(scales), format, num_threads)


def pack_groups(
    codes: NDArray[np.int8],
    scales: NDArray[np.float32],
    bits: int,
    num_threads: int = 0,
    offsets: NDArray[np.float32] | None = None,
) -> Matrix:
    """A matrix of small integers with a scale per group of inputs: what is not ternary.

    Args:
        codes: int8 [rows, cols] in -8..7, -32..31 or -128..127.
        scales: float32 [rows, cols / group], group a multiple of 16; stored as `pack_ternary` does.
        bits: 4, 6 or 8.
        num_threads: 0 for one per core.
        offsets: float32 like scales, added to each `code * scale` of a group; stored as float16 too, as the
            value of the smallest code, which is exact for Q4_1.

    Raises:
        ValueError: other bits, shapes that do not fit, a code out of range, a scale or offset that is not
            finite.
    """
    if bits not in _GROUP_FORMATS:
        raise ValueError(f"bits is {bits}; known: {', '.join(map(str, _GROUP_FORMATS))}")
    return _native.pack(
        np.ascontiguousarray(codes, np.int8),
        np.ascontiguousarray(scales, np.float32),
        _GROUP_FORMATS[bits],
        num_threads,
        None if offsets is None else np.ascontiguousarray(offsets, np.float32),
    )


def pack_phases(phases: NDArray[np.uint8], scales: NDArray[np.float32], num_threads: int = 0) -> Matrix:
    """A matrix of complex weights (wf_formats.phases): `p1` of one plane, 1 bit a real weight, `p2` of two.

    Args:
        phases: uint8 [planes, 2 (U, W), n, m] in 0..3, of a real matrix [2n, 2m].
        scales: float32 [planes, 2, 2 (real, imaginary axis)], kept as they are.
        num_threads: 0 for one per core.

    Raises:
        ValueError: shapes that do not fit, rows of more inputs than a sum holds, a phase out of range, a
            scale that is not finite.
    """
    given = np.asarray(phases)
    check_summed("phases", 2 * given.shape[-1] if given.ndim else 0)
    codes = np.ascontiguousarray(given.astype(np.uint8, copy=False))
    if given.dtype != np.uint8 and not np.array_equal(codes, given):
        raise ValueError(f"phases of {given.dtype} are no whole numbers in 0..3, the powers of i")
    return _native.pack_phases(codes, np.ascontiguousarray(scales, np.float32), num_threads)


def _float32(scales: NDArray[np.float32] | float) -> NDArray[np.float32]:
    array = np.asarray(scales, np.float32)
    return array.reshape(()) if array.size == 1 else np.ascontiguousarray(array)
