"""The inputs of a block's linears, and their second moments: what the closed forms go by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    groups = show_inputs(
        run, block, inputs, lambda name, x: add_products(sums.setdefault(name, _square(x)), x)
    )
    means = {name: mirrored(total) / num_tokens for name, total in sums.items()}
    return {name: means[group[0]] for group in groups for name in group}


def show_inputs(
    run: BlockRunner, block: nn.Module, inputs: Tensor, show: Callable[[str, Tensor], None]
) -> list[list[str]]:
    """Shows every input of the block's linears, the block in full precision.

    Args:
        inputs: stream before the block [sequences, tokens, hidden].
        show: called with the first linear that gets the input and the input itself, rounded, float32
            [tokens, in], a few sequences at a time.
    Returns:
        the names of the linears that share an input, the first one first.
    """

    def collect(layer: nn.Module, args: Any, name: str) -> None:
        assert isinstance(layer, BitLinear)
        x = args[0] if layer.sub_norm is None else layer.sub_norm(args[0])
        show(name, layer.activation.quantize(x.reshape(-1, x.shape[-1])).values().float())

    groups = [list(layers.items()) for layers in input_groups(block)]
    with full_precision(block):
        hooks = [
            layer.register_forward_pre_hook(lambda layer, args, name=name: collect(layer, args, name))
            for (name, layer), *_ in groups
        ]
        try:
            run.stream(block, inputs)
        finally:
            for hook in hooks:
                hook.remove()
    return [[name for name, _ in group] for group in groups]


def _square(x: Tensor) -> Tensor:
    return x.new_zeros(x.shape[1], x.shape[1])


def add_products(total: Tensor, x: Tensor) -> None:
    """total += x^T x, on and above the diagonal (and a little below it): half the work."""
    for start in range(0, x.shape[1], _COLUMNS):
        rows = slice(start, start + _COLUMNS)
        total[rows, start:].addmm_(x[:, rows].t(), x[:, start:])


def mirrored(total: Tensor) -> Tensor:
    """The whole of what `add_products` summed."""
    return total.triu() + total.triu(1).t()


@contextmanager
def full_precision(block: nn.Module) -> Iterator[None]:
    """The block's linears with their weights as they are (lambda 0)."""
    before = get_lambda(block)
    set_lambda(block, 0.0)
    try:
        yield
    finally:
        set_lambda(block, before)
