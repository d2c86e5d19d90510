"""Second moments of the inputs of a block's linears: what the closed forms go by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bitnet_arch import BitLinear, get_lambda, set_lambda
from wf_ptq.inputs import input_groups
from wf_ptq.streams import BlockRunner

_COLUMNS = 192
"""Of a symmetric matrix that are summed together."""


@torch.no_grad()
def input_moments(run: BlockRunner, block: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Mean of x x^T, float32 [in, in], of each linear's rounded input; the block in full precision.

    Args:
        inputs: stream before the block [sequences, tokens, hidden], of the model as quantized so far.
    """
    sums: dict[str, Tensor] = {}
    num_tokens = inputs.shape[0] * inputs.shape[1]

    def collect(layer: nn.Module, args: Any, name: str) -> None:
        assert isinstance(layer, BitLinear)
        x = args[0] if layer.sub_norm is None else layer.sub_norm(args[0])
        x = layer.activation.quantize(x.reshape(-1, x.shape[-1])).values().float()
        add_products(sums.setdefault(name, x.new_zeros(x.shape[1], x.shape[1])), x)

    groups = [list(layers.items()) for layers in input_groups(block)]
    with _full_precision(block):
        hooks = [
            layer.register_forward_pre_hook(lambda layer, args, name=name: collect(layer, args, name))
            for (name, layer), *_ in groups
        ]
        try:
            run.stream(block, inputs)
        finally:
            for hook in hooks:
                hook.remove()
    means = {name: mirrored(total) / num_tokens for name, total in sums.items()}
    return {name: means[group[0][0]] for group in groups for name, _ in group}


def add_products(total: Tensor, x: Tensor) -> None:
    """total += x^T x, on and above the diagonal (and a little below it): half the work."""
    for start in range(0, x.shape[1], _COLUMNS):
        rows = slice(start, start + _COLUMNS)
        total[rows, start:].addmm_(x[:, rows].t(), x[:, start:])


def mirrored(total: Tensor) -> Tensor:
    """The whole of what `add_products` summed."""
    return total.triu() + total.triu(1).t()


@contextmanager
def _full_precision(block: nn.Module) -> Iterator[None]:
    before = get_lambda(block)
    set_lambda(block, 0.0)
    try:
        yield
    finally:
        set_lambda(block, before)
