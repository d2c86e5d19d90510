"""Inputs of a block's linears that can be scaled, and where the scales go.

    input of          is made by        inspected: whose output is compared
    q, k, v           the first norm    attention
    o                 v                 o; only where every head has keys and values of its own
    gate, up          the second norm   the feed-forward part
    down              up                down

Multiplying a linear's columns by s and dividing what makes its input by s leaves the function as it is:
norms by their gains, v and up by their rows (and biases), since attention and the product with the gate are
linear in them. With grouped queries a channel of v is the input of several columns of o; those could only
share a scale, and o is left out, as the authors do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wf_formats.families import Family, family_of
from wf_formats.families.base import Place
from wf_formats.families.block import HF_STEMS
from wf_formats.models.hf_config import read_config


@dataclass(frozen=True)
class Norm:
    """A norm by its name in the block, and what is added to its stored gains."""

    name: str
    offset: float


@dataclass(frozen=True)
class Site:
    """Linears (names in the block) with one input, what makes it, and the module whose output counts."""

    name: str
    consumers: tuple[str, ...]
    producer: Norm | Place
    inspected: str


def sites_of(model: Any) -> tuple[Site, ...]:
    """Of each block of a converted model.

    Raises:
        ValueError: SubLN stands between a linear and what makes its input.
    """
    config = model.config
    family, decoder = family_of(config.model_type), read_config(config.to_dict())
    if family.has_sub_norms or config.quantization_config.sub_norm:
        raise ValueError(
            "the model has SubLN, behind which no scale folds into v and up: convert it without "
            "(model.sub_norm=false)"
        )
    v, o, up, down = (family.place(decoder, part) for part in ("v", "o", "up", "down"))
    found = [
        Site("qkv", _linears(family, "q", "k", "v"), _norm(family, "input_norm"), "self_attn"),
        Site("o", (o.linear,), v, o.linear),
        Site("gate_up", _linears(family, "gate", "up"), _norm(family, "post_attention_norm"), "mlp"),
        Site("down", (down.linear,), up, down.linear),
    ]
    return tuple(site for site in found if site.name != "o" or decoder.num_kv_heads == decoder.num_heads)


def clipped_rows(model: Any) -> dict[str, slice]:
    """Linear -> the rows whose weights may be cut off. Those of q and k are not: attention is sensitive to
    the products of queries and keys."""
    family, decoder = family_of(model.config.model_type), read_config(model.config.to_dict())
    places = [family.place(decoder, part) for part in ("v", "o", "gate", "up", "down")]
    rows: dict[str, slice] = {}
    for place in places:
        start = min(place.rows.start, rows[place.linear].start) if place.linear in rows else place.rows.start
        rows[place.linear] = slice(start, place.num_rows)
    return rows


@torch.no_grad()
def fold(block: nn.Module, site: Site, scales: Tensor) -> None:
    """Columns of the consumers times scales [in], what makes their input divided by them, in place."""
    for name in site.consumers:
        _weight(block, name).mul_(scales)
    producer = site.producer
    if isinstance(producer, Norm):
        gains = _weight(block, producer.name)
        gains.copy_((gains + producer.offset) / scales - producer.offset)
        return
    linear: Any = block.get_submodule(producer.linear)
    linear.weight[producer.rows].div_(scales.unsqueeze(1))
    if linear.bias is not None:
        linear.bias[producer.rows].div_(scales)


def _weight(block: nn.Module, name: str) -> Tensor:
    module: Any = block.get_submodule(name)
    weight: Tensor = module.weight.data
    return weight


def _linears(family: Family, *parts: str) -> tuple[str, ...]:
    """Those that hold the parts, each once."""
    return tuple(stem for stem, held in family.held.items() if set(held) & set(parts))


def _norm(family: Family, part: str) -> Norm:
    return Norm(family.renamed.get(part, HF_STEMS[part]), family.norm_offset)
