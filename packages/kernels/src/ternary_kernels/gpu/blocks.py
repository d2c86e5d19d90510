"""RMSNorm and SwiGLU with their gradients; arithmetic is float32, results have the dtype of the inputs."""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs
from __future__ import annotations

from typing import Any

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from ternary_kernels.gpu.launch import FUSED, fits, fits_matrix, launch, rounded_to
from ternary_kernels.training.rows import FLOATS

_ROWS = 16
"""Of one program of a norm's backward pass, which sums their gradients of the weight in float32."""
_ELEMENTS = 1024
"""Of one program of SwiGLU."""


@triton.jit
def _norm(x, weight, out, factors, cols, eps, BLOCK: tl.constexpr):
    row, col = tl.program_id(0), tl.arange(0, BLOCK)
    place = row.to(tl.int64) * cols + col
    values = tl.load(x + place, mask=col < cols, other=0.0).to(tl.float32)
    factor = tl.div_rn(1.0, tl.sqrt_rn(tl.sum(values * values, 0) / cols + eps))
    tl.store(factors + row, factor)
    gain = tl.load(weight + col, mask=col < cols, other=0.0).to(tl.float32)
    normed = values * factor
    if weight.dtype.element_ty == tl.bfloat16:
        normed = rounded_to(out.dtype.element_ty, normed).to(tl.float32)
    tl.store(out + place, rounded_to(out.dtype.element_ty, gain * normed), mask=col < cols)


@triton.jit
def _norm_backward(
    grad, x, weight, factors, grad_x, partial, rows, cols, BLOCK: tl.constexpr, ROWS: tl.constexpr
):
    col = tl.arange(0, BLOCK)
    inside = col < cols
    gain = tl.load(weight + col, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    first = tl.program_id(0) * ROWS
    for row in range(first, tl.minimum(first + ROWS, rows)):
        place = tl.cast(row, tl.int64) * cols + col
        factor = tl.load(factors + row)
        upstream = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
        normed = tl.load(x + place, mask=inside, other=0.0).to(tl.float32) * factor
        total += upstream * normed
        along = tl.sum(upstream * gain * normed, 0) / cols
        found = (upstream * gain - normed * along) * factor
        tl.store(grad_x + place, rounded_to(grad_x.dtype.element_ty, found), mask=inside)
    tl.store(partial + tl.program_id(0).to(tl.int64) * cols + col, total, mask=inside)


def norm_rows(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """weight * x * factor like x, and factor = 1 / sqrt(mean(x^2) + eps) float32 [rows].

    Args:
        x: float32 or bfloat16 [rows, cols].
        weight: float32 [cols]; or bfloat16, and x * factor is rounded before it is multiplied with it.
    """
    fits_matrix("x", x)
    rows, cols = x.shape
    fits("weight", weight, (cols,), *FLOATS)
    out, factors = torch.empty_like(x), x.new_empty(rows, dtype=torch.float32)
    launch(_norm, (rows,), x, weight, out, factors, cols, eps, BLOCK=triton.next_power_of_2(cols), **FUSED)
    return out, factors


def norm_rows_backward(grad: Tensor, x: Tensor, weight: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x (like x) and of weight (like weight) for the gradient of `norm_rows`' first result."""
    fits_matrix("grad", grad)
    rows, cols = grad.shape
    programs = triton.cdiv(rows, _ROWS)
    grad_x, partial = torch.empty_like(x), x.new_empty((programs, cols), dtype=torch.float32)
    launch(
        _norm_backward,
        (programs,),
        grad,
        x,
        weight,
        factors,
        grad_x,
        partial,
        rows,
        cols,
        BLOCK=triton.next_power_of_2(cols),
        ROWS=_ROWS,
        **FUSED,
    )
    return grad_x, partial.sum(0, dtype=torch.float64).to(weight.dtype)


@triton.jit
def _share(gate):
    return tl.div_rn(1.0, 1.0 + tl.exp(-gate))


@triton.jit
def _swiglu(gate, up, out, count, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    g = tl.load(gate + place, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, rounded_to(out.dtype.element_ty, g * _share(g) * u), mask=inside)


@triton.jit
def _swiglu_backward(grad, gate, up, grad_gate, grad_up, count, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    d = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(gate + place, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + place, mask=inside, other=0.0).to(tl.float32)
    share = _share(g)
    of_gate = d * u * share * (1.0 + g * (1.0 - share))
    tl.store(grad_gate + place, rounded_to(grad_gate.dtype.element_ty, of_gate), mask=inside)
    tl.store(grad_up + place, rounded_to(grad_up.dtype.element_ty, d * g * share), mask=inside)


def swiglu_rows(gate: Tensor, up: Tensor) -> Tensor:
    """gate / (1 + exp(-gate)) * up: float32 or bfloat16 [rows, cols]."""
    fits_matrix("gate", gate)
    fits("up", up, tuple(gate.shape), gate.dtype)
    out, count = torch.empty_like(gate), gate.numel()
    launch(_swiglu, (triton.cdiv(count, _ELEMENTS),), gate, up, out, count, BLOCK=_ELEMENTS, **FUSED)
    return out


def swiglu_rows_backward(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of gate and up."""
    fits("grad", grad, tuple(gate.shape), gate.dtype)
    found, count = (torch.empty_like(gate), torch.empty_like(up)), gate.numel()
    programs = (triton.cdiv(count, _ELEMENTS),)
    launch(_swiglu_backward, programs, grad, gate, up, *found, count, BLOCK=_ELEMENTS, **FUSED)
    return found


def _matrix(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1]).contiguous()


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        y, factors = norm_rows(_matrix(x), weight, eps)
        ctx.save_for_backward(x, weight, factors)
        ctx.mark_non_differentiable(factors)
        return y.view(x.shape), factors

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, factors = ctx.saved_tensors
        grad_x, grad_weight = norm_rows_backward(_matrix(grads[0]), _matrix(x), weight, factors)
        return grad_x.view(x.shape), grad_weight, None


class _Swiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return swiglu_rows(_matrix(gate), _matrix(up)).view(gate.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        found = swiglu_rows_backward(_matrix(grads[0]), _matrix(gate), _matrix(up))
        return found[0].view(gate.shape), found[1].view(gate.shape)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """y like x [..., features] and, without gradient, 1 / sqrt(mean(x^2) + eps) float32 [tokens].

    Args:
        weight: float32 [features].

    Raises:
        ValueError: a dtype, shape or device that does not fit.
    """
    fits("weight", weight, tuple(x.shape[-1:]), torch.float32)
    found: tuple[Tensor, Tensor] = _RmsNorm.apply(x, weight, eps)
    return found


def rms_norm_bf16(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`rms_norm` with a bfloat16 weight, rounded as a model in bfloat16 rounds: x, normed, is like x before
    it is multiplied with the weight, and rounded again.
    """
    fits("weight", weight, tuple(x.shape[-1:]), torch.bfloat16)
    found: tuple[Tensor, Tensor] = _RmsNorm.apply(x, weight, eps)
    return found


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, like gate [..., features].

    Raises:
        ValueError: shapes or dtypes that differ, or another device.
    """
    found: Tensor = _Swiglu.apply(gate, up)
    return found
