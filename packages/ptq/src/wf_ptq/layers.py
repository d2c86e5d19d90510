"""The linears of a block while it is worked on: codes, scales and latent weights apart.

`BitLinear` reads codes and scales off one master weight. Here they are separate, so that each can be
chosen by itself; `write_back` hands the choice to a BitLinear as master weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitnet_arch.linear import BitLinear
from bitnet_arch.master_weights import master_weights, storable_scales
from bitnet_arch.ternary import (
    dequantize,
    dequantize_activation,
    quantize_activation,
    ternary_codes_and_scales,
)

SHARED_INPUTS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
"""Linears of a block that get the same input."""
_CACHED_VALUES = 1 << 18
_LATENT_ROOM = 0.45
"""How far a latent weight may start from its code, in scales; 0.5 is the threshold to the next."""


class Int8Input(torch.autograd.Function):
    """x -> its int8 value per token (ternary.py) in another dtype; the gradient passes unchanged.

    A few rows at a time: temporary values that stay in the cache make it four times as fast.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.dtype = x.dtype
        rows = x.reshape(-1, x.shape[-1])
        output = torch.empty_like(rows, dtype=dtype)
        size = max(1, _CACHED_VALUES // rows.shape[-1])
        for part, target in zip(rows.split(size), output.split(size), strict=True):
            target.copy_(dequantize_activation(*quantize_activation(part)))
        return output.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].to(ctx.dtype), None


class SharedInput:
    """The quantized form of the last input, for linears of a block that get the same tensor."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._raw: Tensor | None = None
        self._quantized: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self._raw is not x:
            self._raw, self._quantized = x, Int8Input.apply(x, self.dtype)
        assert self._quantized is not None
        return self._quantized


def quantizers(dtype: torch.dtype) -> dict[str, SharedInput]:
    """One per linear of a block, the same for those that get the same input."""
    found: dict[str, SharedInput] = {}
    for names in SHARED_INPUTS:
        shared = SharedInput(dtype)
        found |= dict.fromkeys(names, shared)
    return found


class _LatentTernary(torch.autograd.Function):
    """(latent, scales) -> s clip(round(latent / s)), with straight-through gradients.

    The latent weight gets the gradient of its value while it is within 1.5 scales, the scale that of
    q - latent / s inside the grid and of q outside (LSQ; Esser et al. 2020, arXiv 1902.08153, eq. 3).
    """

    @staticmethod
    def forward(ctx: Any, latent: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
        ratio = latent.view(*scales.shape, -1) / scales.unsqueeze(-1)
        ctx.save_for_backward(ratio)
        return (ratio.round().clamp_(-1, 1).mul_(scales.unsqueeze(-1))).view_as(latent).to(dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (ratio,) = ctx.saved_tensors
        grad = grads[0].float().view_as(ratio)
        codes = ratio.round().clamp_(-1, 1)
        grad_scales = (grad * torch.where(ratio.abs() <= 1, codes - ratio, codes)).sum(-1)
        grad_latent = torch.where(ratio.abs() <= 1.5, grad, 0).view_as(grads[0])
        return grad_latent, grad_scales, None


class _ScaledLinear(torch.autograd.Function):
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


class TernaryLinear(nn.Module):
    """A BitLinear's place holder with codes and scales of its own.

    Attributes:
        scales: parameter [] or [out, groups].
        latent: parameter [out, in] whose rounding gives the codes, or None where codes are fixed.
        codes: int8 [out, in]; those of `latent`, where there is one, as of the last `settle`.
    """

    def __init__(
        self,
        layer: BitLinear,
        codes: Tensor,
        scales: Tensor,
        latent: Tensor | None,
        quantize: SharedInput,
    ) -> None:
        super().__init__()
        self.layer, self.sub_norm, self.bias = [layer], layer.sub_norm, layer.bias  # list: not a child
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.codes, self._quantize = codes, quantize
        self.scales = nn.Parameter(scales.clone())
        self.latent = None if latent is None else nn.Parameter(latent)
        self._value: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.sub_norm is not None:
            x = self.sub_norm(x)
        x = self._quantize(x)
        if self._value is not None:
            y = F.linear(x, self._value)
        elif self.latent is not None:
            y = F.linear(x, _LatentTernary.apply(self.latent, self.scales, x.dtype))
        else:
            y = _ScaledLinear.apply(x, self.codes, self.scales)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    @torch.no_grad()
    def settle(self) -> None:
        """Takes the codes off the latent weights and keeps the product of codes and scales."""
        if self.latent is not None:
            ratio = self.latent.view(*self.scales.shape, -1) / self.scales.unsqueeze(-1)
            self.codes = ratio.round_().clamp_(-1, 1).to(torch.int8).view_as(self.latent)
        if self.scales.dim():
            self.scales.copy_(storable_scales(self.scales))
        self._value = dequantize(self.codes, self.scales).to(self._quantize.dtype)

    @torch.no_grad()
    def write_back(self) -> BitLinear:
        """The BitLinear with master weights of these codes and scales."""
        (layer,) = self.layer
        latent = layer.weight.float() if self.latent is None else self.latent
        weight = master_weights(self.codes, self.scales.detach(), latent, layer.scheme)
        layer.weight.copy_(weight)
        return layer


def latent_weights(weight: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """float32 [out, in]: each weight, moved to where it rounds to its code."""
    shape = (*scales.shape, -1)
    ratio = weight.float().view(shape) / scales.unsqueeze(-1)
    grouped = codes.view(shape).float()
    ratio = torch.minimum(torch.maximum(ratio, grouped - _LATENT_ROOM), grouped + _LATENT_ROOM)
    return (ratio * scales.unsqueeze(-1)).view_as(weight)


def install(block: nn.Module, linears: Mapping[str, nn.Module]) -> None:
    for name, linear in linears.items():
        block.set_submodule(name, linear)


def from_master_weights(block: nn.Module, dtype: torch.dtype) -> dict[str, TernaryLinear]:
    """Stand-ins with fixed codes for the block's BitLinears."""
    found = {}
    for name, quantize in quantizers(dtype).items():
        layer = block.get_submodule(name)
        assert isinstance(layer, BitLinear)
        quantized = ternary_codes_and_scales(layer.weight, layer.scheme)
        found[name] = TernaryLinear(layer, *quantized, None, quantize)
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
