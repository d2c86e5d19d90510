"""Which linears of a block get the same input."""

from __future__ import annotations

from torch import nn

from bitnet_arch import BitLinear, bit_linears

SHARED_INPUTS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.qkv_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj", "mlp.gate_up_proj"),
    ("mlp.down_proj",),
)
"""Linears of a block that get the same input."""


def input_groups(block: nn.Module) -> list[dict[str, BitLinear]]:
    """The block's BitLinears by name in the block (within a wrapper, where one is around them), together
    those that get the same input."""
    layers = dict(bit_linears(block))
    return [
        {
            inner: layer
            for name in names
            for inner, layer in layers.items()
            if f"{inner}.".startswith(f"{name}.")
        }
        for names in SHARED_INPUTS
    ]
