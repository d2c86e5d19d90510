"""Attention for training on short sequences: whole score matrices, their products by PyTorch.

    P = softmax(scale Q K^T) over the keys that a query sees,  O = P V
    dV = P^T dO,  dS = P (dO V^T - rowsum(P dO V^T)) scale,  dQ = dS K,  dK = dS^T Q

P is kept for the backward pass: batch x heads x queries x keys numbers a layer. Queries of the heads that
share a key head are rows of one product, so keys and values are not repeated.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ternary_kernels import _native
from ternary_kernels.training.rows import FLOATS, address_of, matrix_of


def softmax_rows(scores: Tensor, batches: int, queries: int, mask: Tensor | None, scale: float) -> None:
    """Scores [..., queries, keys] become softmax(scale * scores), 0 where a query may not look.

    Args:
        scores: float32 or bfloat16, rows of all batches in order, each batch's in runs of `queries`.
        mask: bool [batches, queries, keys], true where a query sees a key; None: itself and those before.
    """
    _native.softmax(
        torch.get_num_threads(),
        *matrix_of("scores", scores.view(-1, scores.shape[-1])),
        batches,
        queries,
        _mask_address(mask, batches, queries, scores.shape[-1]),
        scale,
    )


def softmax_rows_backward(
    grad: Tensor, shares: Tensor, batches: int, queries: int, mask: Tensor | None, scale: float
) -> None:
    """The gradient of the shares, which `softmax_rows` made, becomes that of the scores."""
    _native.softmax_backward(
        torch.get_num_threads(),
        *matrix_of("grad", grad.view(-1, grad.shape[-1])),
        address_of("shares", shares, tuple(grad.shape), grad.dtype),
        batches,
        queries,
        _mask_address(mask, batches, queries, grad.shape[-1]),
        scale,
    )


def _mask_address(mask: Tensor | None, batches: int, queries: int, keys: int) -> int:
    if mask is None:
        if keys < queries:
            raise ValueError(f"{queries} queries see {keys} keys and have no mask")
        return 0
    return address_of("mask", mask, (batches, queries, keys), torch.bool)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        batches, heads, queries, _ = q.shape
        rows, keys, values = _by_key_head(q, k), k.flatten(0, 1), v.flatten(0, 1)
        shares = rows @ keys.transpose(1, 2)
        softmax_rows(shares, batches, queries, mask, scale)
        ctx.save_for_backward(rows, keys, values, shares, mask)
        ctx.scale, ctx.shape = scale, (batches, heads, queries)
        return (shares @ values).view(batches, heads, queries, -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        rows, keys, values, shares, mask = ctx.saved_tensors
        batches, heads, queries = ctx.shape
        grad = grads[0].reshape(*rows.shape[:2], values.shape[-1])
        grad_values = shares.transpose(1, 2) @ grad
        scores = grad @ values.transpose(1, 2)
        softmax_rows_backward(scores, shares, batches, queries, mask, ctx.scale)
        grad_rows, grad_keys = scores @ keys, scores.transpose(1, 2) @ rows
        return (
            grad_rows.view(batches, heads, queries, -1),
            grad_keys.unflatten(0, (batches, -1)),
            grad_values.unflatten(0, (batches, -1)),
            None,
            None,
        )


def _by_key_head(q: Tensor, k: Tensor) -> Tensor:
    """[batches, heads, queries, size] -> [batches * key heads, heads of one * queries, size]."""
    return q.reshape(q.shape[0] * k.shape[1], -1, q.shape[-1])


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """[batches, heads, queries, size of values] in the dtype of the inputs, which is that of the products.

    Args:
        q: float32 or bfloat16 [batches, heads, queries, size].
        k: [batches, key heads, keys, size], v likewise.
        mask: bool [batches, queries, keys], true where a query sees a key; None: itself and those before.

    Raises:
        ValueError: dtypes or shapes that do not fit.
    """
    if len({q.dtype, k.dtype, v.dtype}) > 1 or q.dtype not in FLOATS:
        raise ValueError(f"queries, keys and values are {q.dtype}, {k.dtype}, {v.dtype}, not one of {FLOATS}")
    if q.shape[1] % k.shape[1] or k.shape[:3] != v.shape[:3]:
        raise ValueError(
            f"{q.shape[1]} heads do not share keys {list(k.shape)} and values {list(v.shape)} evenly"
        )
    result: Tensor = _Attention.apply(q, k, v, mask, scale)
    return result
