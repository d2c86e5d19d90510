"""BitLinear: a linear layer with quantized weights and activations (W1.58A8 with the ternary quantizer).

Training keeps float master weights; each forward quantizes them anew, and gradients pass straight
through (straight_through.py). `lambda_` blends, value = x + lambda_ (quantized(x) - x), for weights and
activations alike: 0 is the full-precision layer, 1 the quantized one. How is the business of a
`Quantizer` and an `ActivationQuantizer`; a low-rank correction is a subclass (low_rank.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitnet_arch.activations import ActivationQuantizer
from bitnet_arch.gradients import FLOAT32, INTEGER_PRECISIONS, PRECISIONS, GradientProducts
from bitnet_arch.last_input import LastInput
from bitnet_arch.quantizers import Quantizer, TernaryQuantizer
from bitnet_arch.rounding import Quantized
from bitnet_arch.straight_through import StraightThroughLinear, blended_linear
from bitnet_arch.subln import SubLN
from wf_formats.errors import RequestError

_ROUNDED: LastInput[Quantized] = LastInput()


class BitLinear(nn.Linear):
    """`nn.Linear` with quantized weights and activations and, where `sub_norm` is set, SubLN before it.

    Attributes:
        quantizer: of the weights.
        activation: of the input; the quantizer's own choice where none is given.
        lambda_: quantization share in [0, 1] of this instance; `set_lambda` sets a whole model's.
        gradients: products of the backward pass; `set_precision` sets a whole model's.
        sub_norm: norm of the input, or None.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        quantizer: Quantizer = TernaryQuantizer(),  # noqa: B008 (frozen)
        activation: ActivationQuantizer | None = None,
        sub_norm: SubLN | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ):
        quantizer.check_shape(out_features, in_features)
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.quantizer = quantizer
        self.activation = activation or quantizer.activation
        self.lambda_ = 1.0
        self.gradients: GradientProducts = FLOAT32
        self.sub_norm = sub_norm

    @classmethod
    def from_linear(cls, linear: nn.Linear, quantizer: Quantizer, sub_norm: SubLN | None = None) -> Self:
        """The same layer, sharing the parameters of `linear`."""
        with torch.device("meta"):
            layer = cls(linear.in_features, linear.out_features, linear.bias is not None, quantizer)
        layer.weight, layer.bias, layer.sub_norm = linear.weight, linear.bias, sub_norm
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return self.of_normed(x if self.sub_norm is None else self.sub_norm(x))

    def of_normed(self, x: Tensor) -> Tensor:
        """`forward` behind the norm of the input."""
        if self.lambda_ == 0.0:
            return F.linear(x, self.weight, self.bias)
        if self.lambda_ == 1.0:
            y = self.product(x, self.weight, self.quantizer.quantize(self.weight))
        else:
            flat = x.reshape(-1, self.in_features)
            y = blended_linear(flat, self.weight, self.quantizer, self.activation, self.lambda_)
            y = y.view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def weight_inputs(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., in], what the gradient of `weight` is a product with (the other factor is the
        output's gradient): the input of the layer as it is normed, rounded and blended."""
        x = x if self.sub_norm is None else self.sub_norm(x)
        if self.lambda_ == 0.0:
            return x
        rounded = self.activation.quantize(x.reshape(-1, self.in_features)).values().view(x.shape)
        return rounded if self.lambda_ == 1.0 else x + self.lambda_ * (rounded.to(x.dtype) - x)

    def product(self, x: Tensor, weight: Tensor, quantized: Quantized) -> Tensor:
        """[..., in] -> [..., out]: x, rounded, times `quantized`; gradients go to x and `weight`."""
        flat = x.reshape(-1, self.in_features)
        rounded = _ROUNDED.of(x, lambda _: self.activation.quantize(flat.detach()), self.activation)
        y: Tensor = StraightThroughLinear.apply(
            flat, weight, rounded, quantized, self.quantizer, self.gradients
        )
        return y.view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, quantizer={self.quantizer}, lambda={self.lambda_}"


def bit_linears(model: nn.Module) -> Iterator[tuple[str, BitLinear]]:
    """Qualified names and modules of all BitLinear layers, in model order."""
    for name, module in model.named_modules():
        if isinstance(module, BitLinear):
            yield name, module


def set_lambda(model: nn.Module, value: float) -> None:
    """Sets the quantization share of every BitLinear of this model instance.

    Raises:
        ValueError: value outside [0, 1], or the model has no BitLinear.
    """
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"lambda must lie in [0, 1], got {value}")
    layers = [layer for _, layer in bit_linears(model)]
    if not layers:
        raise ValueError("the model has no BitLinear layer; convert it first (bitnet_arch.convert)")
    for layer in layers:
        layer.lambda_ = float(value)


def get_lambda(model: nn.Module) -> float:
    """The quantization share that all BitLinear layers of the model have.

    Raises:
        ValueError: there are none, or they differ.
    """
    values = {layer.lambda_ for _, layer in bit_linears(model)}
    if len(values) != 1:
        raise ValueError(f"expected one lambda in the model, found {sorted(values)}")
    return values.pop()


def set_precision(model: nn.Module, name: str) -> None:
    """Sets how the BitLinear layers of this model instance compute their backward pass (PRECISIONS).

    Raises:
        ValueError: an unknown name, or no BitLinear.
        RequestError: int8 with a quantizer whose products are not of integers.
    """
    if name not in PRECISIONS:
        raise ValueError(f"unknown precision {name!r}; known: {', '.join(PRECISIONS)}")
    layers = [layer for _, layer in bit_linears(model)]
    if not layers:
        raise ValueError("the model has no BitLinear layer; convert it first (bitnet_arch.convert)")
    without = {layer.quantizer.name for layer in layers if not layer.quantizer.has_integer_products}
    if name in INTEGER_PRECISIONS and without:
        raise RequestError(
            f"precision {name!r} multiplies integers, and weights or inputs of scheme "
            f"{', '.join(sorted(without))} are none: choose float32 or bf16"
        )
    for layer in layers:
        layer.gradients = PRECISIONS[name]
