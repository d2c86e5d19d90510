"""The linears of a block while it is worked on: codes and scales apart.

`BitLinear` reads codes and scales off one master weight. Here they are separate, so that each can be
chosen by itself; `write_back` hands the choice to a BitLinear as master weights. This works with every
quantizer that has an inverse and whose matrices are a dataclass with a field `scales`, which gradients of
`values()` reach; the values of a `QuantizedMatrix`, codes times scales, are never made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bitnet_arch import BitLinear, BitLinearLRC, bit_linears
from bitnet_arch.kernels import kernel_for
from wf_formats.matrix import QuantizedMatrix


class FixedCodes(torch.autograd.Function):
    """(scales, codes) -> a tensor that stands for scales * codes, float32 [out, in].

    Products take codes and scales as they are, so its memory is that of one number; its gradient is that
    of the values, and only the scales' share of it is kept.
    """

    @staticmethod
    def forward(ctx: Any, scales: Tensor, codes: Tensor) -> Tensor:
        ctx.save_for_backward(scales, codes)
        return place_holder(scales, codes.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        scales, codes = ctx.saved_tensors
        if (compute := kernel_for("code_gradients", grad.dtype, grad, codes, scales)) is not None:
            return compute(grad, codes, scales), None
        return (grad * codes).view(*scales.shape, -1).sum(-1), None


def place_holder(like: Tensor, shape: torch.Size) -> Tensor:
    """Zeros of the shape that take the memory of one."""
    return like.new_zeros(()).expand(shape)


class ScaledLinear(nn.Module):
    """A BitLinear's place holder with codes and scales of its own.

    Raises:
        ValueError: the layer has a low-rank correction, which was made for other codes and would be lost.

    Attributes:
        scales: parameter, as the matrix has them; [] or [out, groups] of codes times scales.
        latent: parameter [out, in] whose rounding gives the codes, or None where codes are fixed.
    """

    latent: nn.Parameter | None

    def __init__(self, layer: BitLinear, matrix: Any) -> None:
        super().__init__()
        if isinstance(layer, BitLinearLRC):
            raise ValueError(
                f"its linears have a low-rank correction (rank {layer.rank}) of the codes that they have: "
                "start from the checkpoint that the correction was made for"
            )
        self.layer, self.sub_norm, self.bias = [layer], layer.sub_norm, layer.bias  # list: not a child
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._matrix = matrix
        self.scales = nn.Parameter(matrix.scales.clone())
        self.register_parameter("latent", None)

    @property
    def matrix(self) -> Any:
        """Codes and scales as they are now."""
        return dataclasses.replace(self._matrix, scales=self.scales.detach())

    def chosen(self) -> list[nn.Parameter]:
        """What gradients tune."""
        return [self.scales] if self.latent is None else [self.scales, self.latent]

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        if self.sub_norm is not None:
            x = self.sub_norm(x)
        value = self._value()
        y = self.layer[0].product(x, value, self.matrix)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def _value(self) -> Tensor:
        """What gets the gradient of the values; `matrix` is up to date afterwards."""
        value: Tensor
        if isinstance(self._matrix, QuantizedMatrix):
            value = FixedCodes.apply(self.scales, self._matrix.codes)
        else:
            value = dataclasses.replace(self._matrix, scales=self.scales).values()
        return value

    @torch.no_grad()
    def settle(self) -> None:
        """Rounds the scales to what master weights can carry."""
        self.scales.copy_(self.layer[0].quantizer.storable(self.scales))

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


def from_master_weights(block: nn.Module) -> dict[str, ScaledLinear]:
    """Stand-ins with fixed codes for the block's BitLinears."""
    return {
        name: ScaledLinear(layer, layer.quantizer.quantize(layer.weight))
        for name, layer in bit_linears(block)
    }


def embeddings(model: Any) -> list[nn.Parameter]:
    """The input embedding and the output head, once where they are one."""
    tables = (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    return list(dict.fromkeys(tables))


def vectors(block: nn.Module) -> list[nn.Parameter]:
    """Gains and biases of a block: what stays in full precision and is tuned with the scales."""
    chosen = {id(p) for part in block.modules() if isinstance(part, ScaledLinear) for p in part.chosen()}
    return [vector for vector in block.parameters() if vector.dim() == 1 and id(vector) not in chosen]
