"""The inputs of a block's linears, rounded once for all that get the same tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bitnet_arch import BitLinear, bit_linears
from bitnet_arch.activations import ActivationQuantizer
from bitnet_arch.last_input import LastInput

SHARED_INPUTS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.qkv_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj", "mlp.gate_up_proj"),
    ("mlp.down_proj",),
)
"""Linears of a block that get the same input."""
_CACHED_VALUES = 1 << 18


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


class RoundedInput(torch.autograd.Function):
    """x -> its value as an activation quantizer rounds it, in another dtype; the gradient passes unchanged.

    A few rows at a time: temporary values that stay in the cache make it four times as fast.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: ActivationQuantizer, dtype: torch.dtype) -> Tensor:
        ctx.dtype = x.dtype
        rows = x.reshape(-1, x.shape[-1])
        output = torch.empty_like(rows, dtype=dtype)
        size = max(1, _CACHED_VALUES // rows.shape[-1])
        for part, target in zip(rows.split(size), output.split(size), strict=True):
            target.copy_(activation.quantize(part).values())
        return output.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0].to(ctx.dtype), None, None


class SharedInput:
    """The rounded form of the last input, for linears of a block that get the same tensor."""

    def __init__(self, activation: ActivationQuantizer, dtype: torch.dtype) -> None:
        self.activation, self.dtype = activation, dtype
        self._rounded: LastInput[Tensor] = LastInput()

    def __call__(self, x: Tensor) -> Tensor:
        return self._rounded.of(x, lambda x: RoundedInput.apply(x, self.activation, self.dtype))


def shared_inputs(block: nn.Module, dtype: torch.dtype) -> dict[str, SharedInput]:
    """One per BitLinear of the block, the same for those that get the same input."""
    found: dict[str, SharedInput] = {}
    for layers in input_groups(block):
        activation = next(iter(layers.values())).activation
        found |= dict.fromkeys(layers, SharedInput(activation, dtype))
    return found
