"""Rotary positions by the training kernels, in the attention layers of transformers' models.

Such a layer calls a function of its module, `apply_rotary_pos_emb`, between its projections and attention.
Here a layer gets the same forward with another function under that name, which computes the same to the
bit; the module, and so all other models, keep theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from bitnet_arch.kernels import kernel_for

_NAME = "apply_rotary_pos_emb"
Rotation = Callable[..., tuple[Tensor, Tensor]]


def rotated(
    stock: Rotation, q: Tensor, k: Tensor, cosine: Tensor, sine: Tensor, unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor]:
    """`stock(q, k, cosine, sine)`: [batches, heads, tokens, size], angles [batches or 1, tokens, size]."""
    by_token = q.transpose(1, 2), k.transpose(1, 2)
    turn = kernel_for("turn", q.dtype, *by_token, cosine, sine)
    if turn is None or unsqueeze_dim != 1 or not _fits(q, k, cosine):
        return stock(q, k, cosine, sine, unsqueeze_dim=unsqueeze_dim)
    q, k = turn(*by_token, cosine, sine)
    return q.transpose(1, 2), k.transpose(1, 2)


def _fits(q: Tensor, k: Tensor, cosine: Tensor) -> bool:
    """Whether the kernel's result is what attention gets: autocast rounds what float32 angles make."""
    device = q.device.type
    is_rounded = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) is q.dtype
    return (
        q.dtype is k.dtype
        and (q.dtype is cosine.dtype or (cosine.dtype is torch.float32 and is_rounded))
        and cosine.shape[-1] == q.shape[-1]
    )


@cache
def turning(stock: Any) -> Any | None:
    """The attention class with `rotated` in its forward, under its name; None where it turns otherwise."""
    forward = stock.forward
    rotation = getattr(forward, "__globals__", {}).get(_NAME)
    if rotation is None or _NAME not in forward.__code__.co_names or not _turns_halves(rotation):
        return None
    names = forward.__globals__ | {_NAME: partial(rotated, rotation)}
    turned = FunctionType(
        forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__
    )
    turned.__kwdefaults__ = forward.__kwdefaults__
    kept = {name: getattr(stock, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(stock.__name__, (stock,), {"forward": turned, "turns_by_kernel": True} | kept)


def _turns_halves(rotation: Rotation) -> bool:
    """As Llama does: of other kinds (neighbours that turn together), this example comes out otherwise."""
    q, k, cosine, sine = torch.randn(4, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0))
    found, expected = (turn(q, k, cosine[0], sine[0]) for turn in (rotation, apply_rotary_pos_emb))
    return all(map(torch.equal, found, expected))
