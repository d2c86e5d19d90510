"""Attention for training on short sequences: score matrices are kept, their products are PyTorch's.

    P = softmax(scale Q K^T) over the keys that a query sees,  O = P V
    dV = P^T dO,  dS = P (dO V^T - rowsum(P dO V^T)) scale,  dQ = dS K,  dK = dS^T Q

P is kept for the backward pass: half of batch x heads x queries x keys numbers a layer. Queries of the
heads that share a key head are rows of one product, so keys and values are not repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ternary_kernels import _native
from ternary_kernels.training.rows import FLOATS, address_of, matrix_of
from wf_formats.kernel_sizes import ATTENTION_QUERIES


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
        keys, values = _centred(k).flatten(0, 1).transpose(1, 2), v.flatten(0, 1)
        chunks = list(_chunks(queries, k.shape[2], mask))
        rows, kept, outputs = _rows_of(q, k.shape[1], chunks), [], []
        for own, (size, seen, visible) in zip(rows, chunks, strict=True):
            shares = torch.bmm(own, keys[:, :, :seen])
            softmax_rows(shares, batches, size, visible, scale)
            kept.append(shares)
            outputs.append(torch.bmm(shares, values[:, :seen]))
        ctx.save_for_backward(keys, values, *rows, *kept)
        ctx.scale, ctx.chunks, ctx.shapes = scale, chunks, (q.shape, k.shape, v.shape)
        return _of_rows(outputs, chunks, (batches, heads, queries, v.shape[-1]), k.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        keys, values, *others = ctx.saved_tensors
        of_q, of_k, of_v = ctx.shapes
        keys, values = keys.transpose(1, 2), values.transpose(1, 2)
        parts, grads_q = _rows_of(grads[0], of_k[1], ctx.chunks), []
        grad_k, grad_v = keys.new_zeros(keys.shape), keys.new_zeros(of_v).flatten(0, 1)
        rows, kept = others[: len(parts)], others[len(parts) :]
        for (size, seen, visible), own, grad, shares in zip(ctx.chunks, rows, parts, kept, strict=True):
            grad_v[:, :seen] += torch.bmm(shares.transpose(1, 2), grad)
            scores = torch.bmm(grad, values[:, :, :seen])
            softmax_rows_backward(scores, shares, of_q[0], size, visible, ctx.scale)
            grads_q.append(torch.bmm(scores, keys[:, :seen]))
            grad_k[:, :seen] += torch.bmm(scores.transpose(1, 2), own)
        grad_q = _of_rows(grads_q, ctx.chunks, of_q, of_k[1])
        return grad_q, grad_k.view(of_k), grad_v.view(of_v), None, None


Chunk = tuple[int, int, Tensor | None]
"""Numbers of queries and of the first keys, all that any of them sees, and their part of the mask."""


def _chunks(queries: int, keys: int, mask: Tensor | None) -> Iterator[Chunk]:
    """All queries at once where the mask lets them see later keys, else a few at a time, so that products
    with what the causal mask hides are left out."""
    if mask is not None and (queries != keys or mask.triu(1).any()):
        yield queries, keys, mask
        return
    for start in range(0, queries, ATTENTION_QUERIES):
        stop = min(start + ATTENTION_QUERIES, queries)
        seen = keys - queries + stop
        yield stop - start, seen, None if mask is None else mask[:, start:stop, :seen].contiguous()


def _centred(k: Tensor) -> Tensor:
    """Keys less their mean over the tokens: softmax and gradients stay, but scores become small where keys
    share a large part (a bias, as in Qwen2.5), so that bfloat16 holds them (SageAttention; Zhang et al. 2024,
    arXiv 2410.02367, "smoothing K")."""
    return (k - k.mean(2, keepdim=True, dtype=torch.float32)).to(k.dtype)


def _rows_of(x: Tensor, key_heads: int, chunks: list[Chunk]) -> list[Tensor]:
    """[batches, heads, queries, size] -> of each chunk [batches * key heads, its heads * queries, size]."""
    grouped = x.unflatten(1, (key_heads, -1))
    parts = grouped.split([size for size, *_ in chunks], 3)
    return [part.reshape(x.shape[0] * key_heads, -1, x.shape[-1]) for part in parts]


def _of_rows(rows: list[Tensor], chunks: list[Chunk], shape: Sequence[int], key_heads: int) -> Tensor:
    """The inverse; in memory [batches, queries, heads, size], as the layers around attention have it."""
    batches, heads, queries, size = shape
    form = (batches, key_heads, heads // key_heads, -1, size)
    parts = [part.view(form).permute(0, 3, 1, 2, 4) for part in rows]
    return torch.cat(parts, 1).view(batches, queries, heads, size).transpose(1, 2)


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
