"""Putting layers in the place of a model's block linears."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from bitnet_arch.families import block_linears, blocks
from bitnet_arch.linear import BitLinear
from bitnet_arch.quantizers import Quantizer
from bitnet_arch.subln import SubLN


def replace_block_linears(model: nn.Module, make: Callable[[str, nn.Linear], nn.Module]) -> None:
    """Replaces each linear of each block by `make(qualified name, linear)`, a wrapper as well as a layer."""
    for block_name, block in blocks(model):
        for name in block_linears(model):
            linear = block.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            block.set_submodule(name, make(f"{block_name}.{name}", linear))


def install_bit_linears(model: nn.Module, quantizer: Quantizer, sub_norms: Mapping[str, SubLN]) -> None:
    """BitLinear layers that share the parameters of the linears that they replace.

    Args:
        sub_norms: qualified name of a linear -> the SubLN before it.
    """
    replace_block_linears(
        model, lambda name, linear: BitLinear.from_linear(linear, quantizer, sub_norms.get(name))
    )
