"""The linears of a block while it is worked on: codes and scales apart.

`BitLinear` reads codes and scales off one master weight. Here they are separate, so that each can be
chosen by itself; `write_back` hands the choice to a BitLinear as master weights. This works with every
quantizer whose matrices are codes times scales (`QuantizedMatrix`) and that has an inverse.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitnet_arch import BitLinear
from wf_formats.matrix import QuantizedMatrix
from wf_ptq.inputs import SharedInput, shared_inputs


class ScaledProduct(torch.autograd.Function):
    """x (s q)^T for fixed codes q, with the exact gradients of x and of the scales.

    The product s q is made anew in the backward pass: kept, it would take 2 bytes per weight of the
    whole model.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
        ctx.save_for_backward(x, codes, scales)
        return x @ _product(codes, scales, x.dtype).t()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, Tensor]:
        x, codes, scales = ctx.saved_tensors
        (grad,) = grads
        grad_x = grad @ _product(codes, scales, x.dtype)
        grad_weight = grad.flatten(0, -2).t() @ x.flatten(0, -2)
        grad_scales = (grad_weight * codes).view(*scales.shape, -1).sum(-1, dtype=torch.float32)
        return grad_x, None, grad_scales


def _product(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    grouped = codes.to(dtype).view(*scales.shape, -1)
    return grouped.mul_(scales.unsqueeze(-1).to(dtype)).view_as(codes)


class ScaledLinear(nn.Module):
    """A BitLinear's place holder with codes and scales of its own.

    Attributes:
        scales: parameter [] or [out, groups].
        codes: int8 [out, in].
        latent: parameter [out, in] whose rounding gives the codes, or None where codes are fixed.
    """

    latent: nn.Parameter | None

    def __init__(self, layer: BitLinear, matrix: QuantizedMatrix[Tensor], round_input: SharedInput) -> None:
        super().__init__()
        self.layer, self.sub_norm, self.bias = [layer], layer.sub_norm, layer.bias  # list: not a child
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.codes, self._bits, self._round_input = matrix.codes, matrix.bits, round_input
        self.scales = nn.Parameter(matrix.scales.clone())
        self.register_parameter("latent", None)
        self._value: Tensor | None = None

    @property
    def matrix(self) -> QuantizedMatrix[Tensor]:
        """Codes and scales as they are now."""
        return QuantizedMatrix(self.codes, self.scales.detach(), self._bits)

    def forward(self, x: Tensor) -> Tensor:
        if self.sub_norm is not None:
            x = self.sub_norm(x)
        x = self._round_input(x)
        y = self._product(x) if self._value is None else F.linear(x, self._value)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def _product(self, x: Tensor) -> Tensor:
        product: Tensor = ScaledProduct.apply(x, self.codes, self.scales)
        return product

    @torch.no_grad()
    def settle(self) -> None:
        """Rounds the scales to what master weights can carry and keeps the product of codes and scales."""
        self.scales.copy_(self.layer[0].quantizer.storable(self.scales))
        self._value = self.matrix.values().to(self._round_input.dtype)

    @torch.no_grad()
    def write_back(self) -> BitLinear:
        """The BitLinear with master weights of these codes and scales."""
        (layer,) = self.layer
        latent = layer.weight.float() if self.latent is None else self.latent
        layer.weight.copy_(layer.quantizer.master_weights(self.matrix, latent))
        return layer


def install(block: nn.Module, linears: Mapping[str, nn.Module]) -> None:
    for name, linear in linears.items():
        block.set_submodule(name, linear)


def from_master_weights(block: nn.Module, dtype: torch.dtype) -> dict[str, ScaledLinear]:
    """Stand-ins with fixed codes for the block's BitLinears."""
    found = {}
    for name, round_input in shared_inputs(block, dtype).items():
        layer = block.get_submodule(name)
        assert isinstance(layer, BitLinear)
        found[name] = ScaledLinear(layer, layer.quantizer.quantize(layer.weight), round_input)
    return found


@contextmanager
def computing_in(block: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Fast stand-ins for the block's BitLinears: the same codes and scales, products in `dtype`."""
    linears = from_master_weights(block, dtype)
    originals = {name: block.get_submodule(name) for name in linears}
    install(block, linears)
    for linear in linears.values():
        linear.settle()
    try:
        yield
    finally:
        install(block, originals)


def vectors(block: nn.Module) -> list[nn.Parameter]:
    """Gains and biases of a block: what stays in full precision and is tuned with the scales."""
    return [parameter for parameter in block.parameters() if parameter.dim() == 1]
