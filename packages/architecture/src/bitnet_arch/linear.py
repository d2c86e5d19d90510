"""BitLinear: a linear layer with ternary weights and int8 activations (W1.58A8).

Training keeps float master weights; each forward quantizes them anew and the straight-through
estimator hands the gradients of the quantized values to the float ones (Bengio et al. 2013,
arXiv 1308.3432). `lambda_` blends, value = x + lambda_ (quantized(x) - x), for weights and
activations alike: 0 is the full-precision layer, 1 the ternary one.

On a CPU with lambda_ = 1 the forward is an exact int8 product (`torch._int_mm`, 4 to 9 times as
fast as float32 on AVX-512 VNNI) and only the integer codes are kept for the backward, a quarter of
the activation memory. The backward runs in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitnet_arch.families import BLOCK_LINEARS, blocks
from bitnet_arch.subln import SubLN
from bitnet_arch.ternary import (
    WeightScheme,
    dequantize,
    dequantize_activation,
    quantize_activation,
    ternary_codes_and_scales,
)


def int8_matmul(x_codes: Tensor, x_inverse_scale: Tensor, w_codes: Tensor, w_scales: Tensor) -> Tensor:
    """float32 [tokens, out] from int8 codes, exact int32 sums per scale group.

    Args:
        x_codes: int8 [tokens, in]; x_inverse_scale: float32 [tokens, 1].
        w_codes: int8 [out, in]; w_scales: float32 [] or [out, groups].
    """
    if w_scales.dim() == 0:
        return torch._int_mm(x_codes, w_codes.t()).float().mul_(w_scales / x_inverse_scale)
    num_groups = w_scales.shape[1]
    product = x_codes.new_zeros(x_codes.shape[0], w_codes.shape[0], dtype=torch.float32)
    groups = zip(x_codes.chunk(num_groups, 1), w_codes.chunk(num_groups, 1), w_scales.t(), strict=True)
    for x_group, w_group, scale in groups:
        product.addcmul_(torch._int_mm(x_group.contiguous(), w_group.t()), scale)
    return product.div_(x_inverse_scale)


class _TernaryLinear(torch.autograd.Function):
    """x [tokens, in], weight [out, in] -> [tokens, out], both quantized, straight-through gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scheme: WeightScheme) -> Tensor:
        quantized = (*quantize_activation(x), *ternary_codes_and_scales(weight, scheme))
        ctx.save_for_backward(*quantized)
        ctx.dtypes = x.dtype, weight.dtype
        if x.device.type == "cpu":
            return int8_matmul(*quantized).to(x.dtype)
        x_codes, x_inverse_scale, w_codes, w_scales = quantized
        x_value = dequantize_activation(x_codes, x_inverse_scale).to(x.dtype)
        return F.linear(x_value, dequantize(w_codes, w_scales).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad_out,) = grads
        x_codes, x_inverse_scale, w_codes, w_scales = ctx.saved_tensors
        x_dtype, w_dtype = ctx.dtypes
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = grad_out @ dequantize(w_codes, w_scales).to(grad_out.dtype)
            grad_x = grad_x.to(x_dtype)
        if ctx.needs_input_grad[1]:
            x_value = dequantize_activation(x_codes, x_inverse_scale).to(grad_out.dtype)
            grad_weight = (grad_out.t() @ x_value).to(w_dtype)
        return grad_x, grad_weight, None


def _blended_linear(x: Tensor, weight: Tensor, scheme: WeightScheme, lambda_: float) -> Tensor:
    x_quantized = dequantize_activation(*quantize_activation(x)).to(x.dtype)
    w_quantized = dequantize(*ternary_codes_and_scales(weight, scheme)).to(weight.dtype)
    x = x + lambda_ * (x_quantized - x).detach()
    weight = weight + lambda_ * (w_quantized - weight).detach()
    return F.linear(x, weight)


class BitLinear(nn.Linear):
    """`nn.Linear` with ternary weights, int8 activations and, where `sub_norm` is set, SubLN before it.

    Attributes:
        scheme: what shares a weight scale.
        lambda_: quantization share in [0, 1] of this instance; `set_lambda` sets a whole model's.
        sub_norm: norm of the input, or None.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        scheme: WeightScheme = WeightScheme(),  # noqa: B008 (frozen)
        sub_norm: SubLN | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ):
        scheme.num_groups(in_features)
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.scheme = scheme
        self.lambda_ = 1.0
        self.sub_norm = sub_norm

    @classmethod
    def from_linear(cls, linear: nn.Linear, scheme: WeightScheme, sub_norm: SubLN | None = None) -> BitLinear:
        """The same layer, sharing the parameters of `linear`."""
        with torch.device("meta"):
            layer = cls(linear.in_features, linear.out_features, linear.bias is not None, scheme=scheme)
        layer.weight, layer.bias, layer.sub_norm = linear.weight, linear.bias, sub_norm
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        if self.sub_norm is not None:
            x = self.sub_norm(x)
        if self.lambda_ == 0.0:
            return F.linear(x, self.weight, self.bias)
        flat = x.reshape(-1, self.in_features)
        if self.lambda_ == 1.0:
            y = _TernaryLinear.apply(flat, self.weight, self.scheme)
        else:
            y = _blended_linear(flat, self.weight, self.scheme, self.lambda_)
        y = y.view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, scheme={self.scheme}, lambda={self.lambda_}"


def install_bit_linears(model: nn.Module, scheme: WeightScheme, sub_norms: Mapping[str, SubLN]) -> None:
    """Replaces the block linears by BitLinear layers that share their parameters.

    Args:
        sub_norms: qualified name of a linear -> the SubLN before it.
    """
    for block_name, block in blocks(model):
        for name in BLOCK_LINEARS:
            linear = block.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            sub_norm = sub_norms.get(f"{block_name}.{name}")
            block.set_submodule(name, BitLinear.from_linear(linear, scheme, sub_norm))


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
