"""Attention by the training kernels, under a name that transformers knows.

A `BlockMask` is PyTorch's `flex_attention`'s, which computes with it.

Registered beside "sdpa", whose masks it shares and which computes whatever the kernels do not: float32, long
sequences (where PyTorch's flash attention is faster and keeps no score matrices), caches, dropout.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_mask
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from bitnet_arch.kernels import kernel_for
from wf_formats.kernel_sizes import ATTENTION_TOKENS

NAME = "wrinklefree"
WATCH = "watch_logits"
"""Attribute of an attention module: called with query, key, mask and scale of each pass
(attention_logits.py)."""


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | BlockMask | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """transformers' interface: [batches, heads, tokens, size] each -> [batches, tokens, heads, size]."""
    found: Tensor
    scale = scaling or query.shape[-1] ** -0.5
    if (watch := getattr(module, WATCH, None)) is not None:
        watch(query, key, _dense(attention_mask, query), scale)
    if isinstance(attention_mask, BlockMask):
        if torch.is_autocast_enabled(device := query.device.type):  # which does not know this attention
            query, key, value = (x.to(torch.get_autocast_dtype(device)) for x in (query, key, value))
        found, _ = flex_attention_forward(module, query, key, value, attention_mask, scaling=scale)
        return found, None
    dtype = torch.get_autocast_dtype("cpu")
    attend = kernel_for("attention", dtype)
    if attend is None or not _fits(query, key, value, attention_mask, dropout):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    mask = None if attention_mask is None else _mask_of(attention_mask, query)
    with torch.autocast("cpu", enabled=False):
        found = attend(query.to(dtype), key.to(dtype), value.to(dtype), mask, scale)
    return found.transpose(1, 2).contiguous(), None


def _fits(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> bool:
    return (
        torch.is_autocast_enabled("cpu")
        and query.device.type == "cpu"
        and query.shape[2] == key.shape[2] <= ATTENTION_TOKENS
        and key.shape[:3] == value.shape[:3]
        and (mask is None or (mask.dtype is torch.bool and mask.shape[1] == 1))
        and dropout == 0.0
    )


def _dense(mask: Tensor | BlockMask | None, query: Tensor) -> Tensor | None:
    """The same mask as a tensor."""
    if not isinstance(mask, BlockMask):
        return mask
    batches, _, queries, keys = mask.shape
    return create_mask(mask.mask_mod, batches, 1, queries, keys, device=str(query.device))


def _mask_of(mask: Tensor, query: Tensor) -> Tensor:
    """[batches, 1, queries, keys], batches possibly 1 -> [batches, queries, keys]."""
    return mask[:, 0].expand(query.shape[0], -1, -1).contiguous()


def use_attention(model: Any) -> None:
    """Where the model computes with "sdpa"; a choice of another kind stays."""
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, attention_forward)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)
