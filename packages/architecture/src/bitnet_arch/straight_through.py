"""A product of quantized weights and activations through which gradients pass.

The straight-through estimator hands the gradients of the quantized values to the float ones (Bengio et
al. 2013, arXiv 1308.3432). Only what the quantizers made is kept for the backward pass (with int8 codes a
quarter of the activation memory); how precise that is, is the choice of a `GradientProducts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bitnet_arch.activations import ActivationQuantizer
from bitnet_arch.gradients import GradientProducts
from bitnet_arch.quantizers.base import Quantizer
from bitnet_arch.rounding import Quantized


class StraightThroughLinear(torch.autograd.Function):
    """x [tokens, in], weight [out, in] -> [tokens, out] in the output dtype of `gradients`, both quantized.

    x_quantized is what became of x, which layers with the same input share, and w_quantized what
    `quantizer` made of the weight: of x and weight themselves only shape and dtype matter.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        x_quantized: Quantized,
        w_quantized: Quantized,
        quantizer: Quantizer,
        gradients: GradientProducts,
    ) -> Tensor:
        ctx.forms = _Form.of(x_quantized), _Form.of(w_quantized)
        ctx.save_for_backward(*ctx.forms[0].tensors(x_quantized), *ctx.forms[1].tensors(w_quantized))
        ctx.dtypes = x.dtype, weight.dtype
        ctx.gradients = gradients
        return quantizer.product(x_quantized, w_quantized, gradients.output_dtype(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        (grad_out,) = grads
        x_form, w_form = ctx.forms
        num_x, saved = len(x_form.names), ctx.saved_tensors  # once: activations may be made again by it
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            weight = w_form.value(saved[num_x:])
            grad_x = ctx.gradients.of_input(grad_out, weight, ctx.dtypes[0])
        if ctx.needs_input_grad[1]:
            x = x_form.value(saved[:num_x])
            grad_weight = ctx.gradients.of_weight(grad_out, x, ctx.dtypes[1])
        return grad_x, grad_weight, None, None, None, None


def blended_linear(
    x: Tensor, weight: Tensor, quantizer: Quantizer, activation: ActivationQuantizer, lambda_: float
) -> Tensor:
    """The product of x + lambda_ (quantized(x) - x) and of the weight blended likewise."""
    x_quantized = activation.quantize(x).values().to(x.dtype)
    w_quantized = quantizer.quantize(weight).values().to(weight.dtype)
    x = x + lambda_ * (x_quantized - x).detach()
    weight = weight + lambda_ * (w_quantized - weight).detach()
    return F.linear(x, weight)


@dataclass(frozen=True)
class _Form:
    """A quantized value without its tensors, which autograd keeps (and may drop and make again)."""

    kind: type[Any]
    names: tuple[str, ...]
    """Of the fields that are tensors."""
    others: dict[str, Any]

    @classmethod
    def of(cls, value: Any) -> _Form:
        contents = {field.name: getattr(value, field.name) for field in fields(value)}
        names = tuple(name for name, content in contents.items() if isinstance(content, Tensor))
        others = {name: content for name, content in contents.items() if name not in names}
        return cls(type(value), names, others)

    def tensors(self, value: Any) -> list[Tensor]:
        return [getattr(value, name) for name in self.names]

    def value(self, tensors: Sequence[Tensor]) -> Quantized:
        made: Quantized = self.kind(**dict(zip(self.names, tensors, strict=True)), **self.others)
        return made
