"""Differentiable PyTorch operators made of the training kernels, for the CPU.

    torch.ops.ternary_kernels.rms_norm(x, weight, eps) -> (y, factors)
        factors = 1 / sqrt(mean(x^2) + eps), y = weight * x * factors
    torch.ops.ternary_kernels.swiglu(gate, up) -> y
        y = silu(gate) * up
    torch.ops.ternary_kernels.turn(q, k, cosine, sine) -> (q, k)
        rotary positions: x * cosine + (-second half, first half) * sine of each head

x, gate and up are float32 or bfloat16 [..., features], q and k [batches, tokens, heads, size], contiguous or
not. Arithmetic is float32; what is returned has the dtype of the inputs. All have shape functions: they
compile without a graph break.
Importing this module registers the operators.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ternary_kernels.training import rows


def _matrix(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1]).contiguous()


@torch.library.custom_op("ternary_kernels::rms_norm", mutates_args=())
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """y like x [..., features] and, for the backward pass, 1 / sqrt(mean(x^2) + eps) float32 [tokens].

    Raises:
        ValueError: a dtype, shape or device that does not fit.
    """
    y, factors = rows.norm_rows(_matrix(x), weight, eps)
    return y.view(x.shape), factors


@rms_norm.register_fake
def _(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.numel() // x.shape[-1], dtype=torch.float32)


@torch.library.custom_op("ternary_kernels::rms_norm_backward", mutates_args=())
def rms_norm_backward(grad: Tensor, x: Tensor, weight: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight."""
    grad_x, grad_weight = rows.norm_rows_backward(_matrix(grad.to(x.dtype)), _matrix(x), weight, factors)
    return grad_x.view(x.shape), grad_weight


@rms_norm_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), torch.empty_like(weight)


def _keep_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _ = inputs
    ctx.save_for_backward(x, weight, output[1])


def _norm_gradients(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor, None]:
    return *rms_norm_backward(grad, *ctx.saved_tensors), None


rms_norm.register_autograd(_norm_gradients, setup_context=_keep_norm)


@torch.library.custom_op("ternary_kernels::swiglu", mutates_args=())
def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, like gate.

    Raises:
        ValueError: shapes or dtypes that differ, or another device.
    """
    return rows.swiglu_rows(_matrix(gate), _matrix(up)).view(gate.shape)


@swiglu.register_fake
def _(gate: Tensor, up: Tensor) -> Tensor:
    return gate.new_empty(gate.shape)


@torch.library.custom_op("ternary_kernels::swiglu_backward", mutates_args=())
def swiglu_backward(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of gate and up."""
    grad_gate, grad_up = rows.swiglu_rows_backward(_matrix(grad), _matrix(gate), _matrix(up))
    return grad_gate.view(gate.shape), grad_up.view(up.shape)


@swiglu_backward.register_fake
def _(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    return gate.new_empty(gate.shape), up.new_empty(up.shape)


def _keep_swiglu(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _swiglu_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    return swiglu_backward(grad, *ctx.saved_tensors)


swiglu.register_autograd(_swiglu_gradients, setup_context=_keep_swiglu)


@torch.library.custom_op("ternary_kernels::turn", mutates_args=())
def turn(q: Tensor, k: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
    """q and k turned by their positions, like them; no gradient for the angles.

    Args:
        q, k: [batches, tokens, heads, size].
        cosine, sine: float32 or bfloat16 [batches or 1, tokens, size].

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
    """
    return _turned(q, k, cosine, sine, backward=False)


@torch.library.custom_op("ternary_kernels::turn_backward", mutates_args=())
def turn_backward(grad_q: Tensor, grad_k: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of q and k."""
    return _turned(grad_q, grad_k, cosine, sine, backward=True)


def _turned(q: Tensor, k: Tensor, cosine: Tensor, sine: Tensor, backward: bool) -> tuple[Tensor, Tensor]:
    angles = cosine.contiguous(), sine.contiguous()
    turned_q, turned_k = (rows.turn_rows(x.contiguous(), *angles, backward) for x in (q, k))
    return turned_q, turned_k


@turn.register_fake
@turn_backward.register_fake
def _(q: Tensor, k: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape)


def _keep_angles(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[2:])


def _turn_gradients(ctx: Any, grad_q: Tensor, grad_k: Tensor) -> tuple[Tensor, Tensor, None, None]:
    return *turn_backward(grad_q, grad_k, *ctx.saved_tensors), None, None


turn.register_autograd(_turn_gradients, setup_context=_keep_angles)
