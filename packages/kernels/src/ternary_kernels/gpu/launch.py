"""Where the Triton kernels run, what they take, and pieces that several share."""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs
from __future__ import annotations

from typing import Any

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from ternary_kernels.training.rows import FLOATS, check

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
DEVICE = "cpu" if INTERPRETED.value else "cuda"
EXACT: dict[str, Any] = {"enable_fp_fusion": False}
"""Options of a launch: products are rounded before something is added to them, as the CPU's are."""
FUSED: dict[str, Any] = {"enable_fp_fusion": True}
"""Options of a launch whose results may differ in the last bit."""
INFINITY_BITS = tl.constexpr(0x7F800000)
"""Of float32; those of NaN, without the sign, are larger."""


def describe() -> str:
    """One line: what computes, and where."""
    where = torch.cuda.get_device_name() if DEVICE == "cuda" else "Triton's interpreter"
    return f"ternary_kernels, Triton {triton.__version__}, on {where}"


def fits(name: str, tensor: Tensor, shape: tuple[int, ...], *dtypes: torch.dtype) -> None:
    """Raises ValueError: another dtype, shape or device, or memory with gaps."""
    check(name, tensor, DEVICE, shape, *dtypes)


def fits_matrix(name: str, x: Tensor, dtypes: tuple[torch.dtype, ...] = FLOATS) -> None:
    """Raises ValueError: not a contiguous matrix of these floats."""
    if x.dim() != 2:
        raise ValueError(f"{name} is {list(x.shape)}, not a matrix")
    fits(name, x, tuple(x.shape), *dtypes)


def launch(kernel: Any, programs: tuple[int, ...], *args: Any, **options: Any) -> None:
    """Starts a kernel on the GPU of its first argument, be that the current one or not."""
    with torch.cuda.device_of(args[0]):
        kernel[programs](*args, **options)


def block_of(size: int, most: int = 4096) -> int:
    """Elements that a program takes at once of a row of `size`: a power of two."""
    return min(triton.next_power_of_2(size), most)


@triton.jit
def magnitude_bits(x):
    """Those of |x| in float32: ordered as the magnitudes are, infinity and NaN above all."""
    return x.to(tl.float32).to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def nan_unless_finite(x, bits):
    """x, or NaN where the largest magnitude that it was made of is NaN or infinity."""
    return tl.where(bits < INFINITY_BITS, x, float("nan"))


@triton.jit
def code_of(x):
    """int8 of whole numbers, 0 of NaN."""
    return tl.where(x == x, x, 0.0).to(tl.int8)


@triton.jit
def nearest(x):
    """x rounded to an integer, ties to even, for |x| < 2^22; a kernel with it is launched EXACT."""
    return (x + 12582912.0) - 12582912.0


@triton.jit
def rounded_to(dtype: tl.constexpr, x):
    """float32 in `dtype`, nearest and ties to even; the interpreter's own conversion cuts bits off."""
    if dtype == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        even = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
        x = tl.where(x == x, even.to(tl.float32, bitcast=True), x)
    return x.to(dtype)
