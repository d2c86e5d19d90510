"""Attention for training on short sequences: score matrices are kept, their products are PyTorch's.

    P = softmax(scale Q K^T) over the keys that a query sees,  O = P V
    dV = P^T dO,  dS = P (dO V^T - rowsum(P dO V^T)) scale,  dQ = dS K,  dK = dS^T Q

P is kept for the backward pass: half of batch x heads x queries x keys numbers a layer. Queries of the
heads that share a key head are rows of one product, so keys and values are not repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ternary_kernels import _native
from ternary_kernels.training.rows import FLOATS, address_of, matrix_of

_QUERIES = 128
"""Of one chunk."""


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
        grouped, keys, values = _by_key_head(q, k), _centred(k).flatten(0, 1), v.flatten(0, 1)
        output = grouped.new_empty(*grouped.shape[:3], v.shape[-1])
        chunks, kept = list(_chunks(queries, k.shape[2], mask)), []
        for part, past, seen in chunks:
            shares = _rows(grouped, part) @ keys[:, past].transpose(1, 2)
            softmax_rows(shares, batches, part.stop - part.start, seen, scale)
            kept.append(shares)
            output[:, :, part] = (shares @ values[:, past]).view_as(output[:, :, part])
        ctx.save_for_backward(grouped, keys, values, *kept)
        ctx.scale, ctx.chunks, ctx.shapes = scale, chunks, (q.shape, k.shape, v.shape)
        return output.view(batches, heads, queries, -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        grouped, keys, values, *kept = ctx.saved_tensors
        grad = grads[0].reshape(*grouped.shape[:3], -1)
        grad_q = torch.empty_like(grouped)
        grad_k, grad_v = torch.zeros_like(keys), torch.zeros_like(values)
        for (part, past, seen), shares in zip(ctx.chunks, kept, strict=True):
            own = _rows(grad, part)
            grad_v[:, past] += shares.transpose(1, 2) @ own
            scores = own @ values[:, past].transpose(1, 2)
            softmax_rows_backward(scores, shares, ctx.shapes[0][0], part.stop - part.start, seen, ctx.scale)
            grad_q[:, :, part] = (scores @ keys[:, past]).view_as(grad_q[:, :, part])
            grad_k[:, past] += scores.transpose(1, 2) @ _rows(grouped, part)
        of_q, of_k, of_v = ctx.shapes
        return grad_q.view(of_q), grad_k.view(of_k), grad_v.view(of_v), None, None


def _chunks(queries: int, keys: int, mask: Tensor | None) -> Iterator[tuple[slice, slice, Tensor | None]]:
    """Queries, the keys that any of them sees, and their part of the mask: all where it lets them see later
    ones, else a few at a time, so that products with what the causal mask hides are left out."""
    if mask is not None and (queries != keys or mask.triu(1).any()):
        yield slice(0, queries), slice(0, keys), mask
        return
    for start in range(0, queries, _QUERIES):
        stop = min(start + _QUERIES, queries)
        past = slice(0, keys - queries + stop)
        yield slice(start, stop), past, None if mask is None else mask[:, start:stop, past].contiguous()


def _centred(k: Tensor) -> Tensor:
    """Keys less their mean over the tokens: softmax and gradients stay, but scores become small where keys
    share a large part (a bias, as in Qwen2.5), so that bfloat16 holds them (SageAttention; Zhang et al. 2024,
    arXiv 2410.02367, "smoothing K")."""
    return (k - k.mean(2, keepdim=True, dtype=torch.float32)).to(k.dtype)


def _by_key_head(q: Tensor, k: Tensor) -> Tensor:
    """[batches, heads, queries, size] -> [batches * key heads, heads of one, queries, size]."""
    return q.reshape(q.shape[0] * k.shape[1], -1, *q.shape[2:])


def _rows(grouped: Tensor, part: slice) -> Tensor:
    return grouped[:, :, part].flatten(1, 2)


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
