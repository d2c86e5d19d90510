"""Rotary positions of queries and keys with their gradients, equal to PyTorch's operators to the bit."""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs
from __future__ import annotations

from typing import Any

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from ternary_kernels.gpu.launch import EXACT, fits, launch, rounded_to
from ternary_kernels.training.rows import FLOATS

_ELEMENTS = 2048
"""Of halves of heads that a program holds at once."""


@triton.jit
def _product(values, angles, ROUNDED: tl.constexpr):
    found = values * angles
    if ROUNDED:
        found = rounded_to(tl.bfloat16, found).to(tl.float32)
    return found


@triton.jit
def _turn_token(
    x,
    out,
    cosine,
    sine,
    token,
    heads,
    half,
    BACKWARD: tl.constexpr,
    ROUNDED: tl.constexpr,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
):
    """All heads of one token; cosine and sine point to its angles."""
    col = tl.arange(0, HALF)
    has = col < half
    cosine_1 = tl.load(cosine + col, mask=has, other=0.0).to(tl.float32)[None, :]
    cosine_2 = tl.load(cosine + half + col, mask=has, other=0.0).to(tl.float32)[None, :]
    sine_1 = tl.load(sine + col, mask=has, other=0.0).to(tl.float32)[None, :]
    sine_2 = tl.load(sine + half + col, mask=has, other=0.0).to(tl.float32)[None, :]
    for first_head in range(0, heads, HEADS):
        head = first_head + tl.arange(0, HEADS)
        place = (token.to(tl.int64) * heads + head)[:, None] * (2 * half) + col[None, :]
        inside = (head < heads)[:, None] & has[None, :]
        first = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        second = tl.load(x + half + place, mask=inside, other=0.0).to(tl.float32)
        of_first, of_second = _product(first, cosine_1, ROUNDED), _product(second, cosine_2, ROUNDED)
        if BACKWARD:  # each half's sine is the one that it was multiplied with on its way to the other
            of_first += _product(second, sine_2, ROUNDED)
            of_second -= _product(first, sine_1, ROUNDED)
        else:
            of_first -= _product(second, sine_1, ROUNDED)
            of_second += _product(first, sine_2, ROUNDED)
        tl.store(out + place, rounded_to(out.dtype.element_ty, of_first), mask=inside)
        tl.store(out + half + place, rounded_to(out.dtype.element_ty, of_second), mask=inside)


@triton.jit
def _turn(
    q,
    k,
    out_q,
    out_k,
    cosine,
    sine,
    num_angles,
    q_heads,
    k_heads,
    half,
    BACKWARD: tl.constexpr,
    ROUNDED: tl.constexpr,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
):
    token = tl.program_id(0)
    angles = (token % num_angles).to(tl.int64) * (2 * half)
    cosine, sine = cosine + angles, sine + angles
    _turn_token(q, out_q, cosine, sine, token, q_heads, half, BACKWARD, ROUNDED, HEADS, HALF)
    _turn_token(k, out_k, cosine, sine, token, k_heads, half, BACKWARD, ROUNDED, HEADS, HALF)


def turn_rows(q: Tensor, k: Tensor, cosine: Tensor, sine: Tensor, backward: bool) -> tuple[Tensor, Tensor]:
    """x * cosine + (-second half, first half) * sine of each head, or the gradients for these.

    Rounded as PyTorch's operators round it; forward, bfloat16 heads with float32 angles are rounded once.

    Args:
        q, k: float32 or bfloat16 [batches, tokens, heads, size], of an even size.
        cosine, sine: float32 or bfloat16 [batches or 1, tokens, size].
    """
    batches, tokens, heads, size = q.shape
    if size % 2 or cosine.shape[0] not in (1, batches):
        raise ValueError(f"heads {list(q.shape)} are not turned by angles {list(cosine.shape)}")
    fits("q", q, (batches, tokens, heads, size), *FLOATS)
    fits("k", k, (batches, tokens, k.shape[2], size), q.dtype)
    fits("cosine", cosine, (cosine.shape[0], tokens, size), *FLOATS)
    fits("sine", sine, tuple(cosine.shape), cosine.dtype)
    outputs = torch.empty_like(q), torch.empty_like(k)
    half = triton.next_power_of_2(size // 2)
    launch(
        _turn,
        (batches * tokens,),
        q,
        k,
        *outputs,
        cosine,
        sine,
        cosine.shape[0] * tokens,
        heads,
        k.shape[2],
        size // 2,
        BACKWARD=backward,
        ROUNDED=q.dtype is torch.bfloat16 and (backward or cosine.dtype is torch.bfloat16),
        HEADS=min(triton.next_power_of_2(heads), max(1, _ELEMENTS // half)),
        HALF=half,
        **EXACT,
    )
    return outputs


class _Turn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cosine, sine)
        return turn_rows(q.contiguous(), k.contiguous(), cosine, sine, backward=False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_q, grad_k = (grad.contiguous() for grad in grads)
        cosine, sine = ctx.saved_tensors
        return *turn_rows(grad_q, grad_k, cosine, sine, backward=True), None, None


def turn(q: Tensor, k: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
    """q and k turned by their positions, like them; no gradient for the angles.

    Args:
        q, k: float32 or bfloat16 [batches, tokens, heads, size].
        cosine, sine: float32 or bfloat16 [batches or 1, tokens, size].

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
    """
    found: tuple[Tensor, Tensor] = _Turn.apply(q, k, cosine.contiguous(), sine.contiguous())
    return found
