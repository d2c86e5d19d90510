"""The stand-in for a BitLinear whose ternary codes follow latent weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bitnet_arch import BitLinear, bit_linears
from bitnet_arch.kernels import kernel_for
from wf_formats.matrix import QuantizedMatrix
from wf_ptq.layers import ScaledLinear, place_holder

_LATENT_ROOM = 0.45
"""How far a latent weight may start from its code, in scales; 0.5 is the threshold to the next."""


class RoundedLatent(torch.autograd.Function):
    """(latent, scales) -> a tensor that stands for s clip(round(latent / s)), straight through backwards.

    The latent weight gets the gradient of its value while it is within 1.5 scales, the scale that of
    q - latent / s inside the grid and of q outside (LSQ; Esser et al. 2020, arXiv 1902.08153, eq. 3).
    As with FixedCodes, the values are never made: `latent_codes` says what to multiply with.
    """

    @staticmethod
    def forward(ctx: Any, latent: Tensor, scales: Tensor) -> Tensor:
        ctx.save_for_backward(latent, scales)
        return place_holder(latent, latent.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        latent, scales = ctx.saved_tensors
        grad = grads[0].float()
        if (compute := kernel_for("latent_gradients", grad.dtype, grad, latent, scales)) is not None:
            grad_latent = grad.clone() if grad is grads[0] else grad
            return grad_latent, compute(grad_latent, latent, scales)
        ratio = _over_scales(latent, scales)
        codes = ratio.round().clamp_(-1, 1)
        grad = grad.view_as(ratio)
        grad_scales = (grad * torch.where(ratio.abs() <= 1, codes - ratio, codes)).sum(-1)
        grad_latent = torch.where(ratio.abs() <= 1.5, grad, 0).view_as(latent)
        return grad_latent, grad_scales


def _over_scales(latent: Tensor, scales: Tensor) -> Tensor:
    """latent / scales, [out, groups, size], or flat where all share one."""
    return latent.view(*scales.shape, -1) / scales.unsqueeze(-1)


@torch.no_grad()
def latent_codes(latent: Tensor, scales: Tensor) -> Tensor:
    """clip(round(latent / scales), -1, 1) int8 [out, in]."""
    if (compute := kernel_for("latent_codes", latent.dtype, latent, scales)) is not None:
        codes: Tensor = compute(latent, scales)
        return codes
    return _over_scales(latent, scales).round_().clamp_(-1, 1).to(torch.int8).view_as(latent)


class LatentLinear(ScaledLinear):
    """Codes are the rounding of `latent` over the scales, until they settle."""

    latent: nn.Parameter

    def __init__(self, layer: BitLinear, matrix: QuantizedMatrix[Tensor]) -> None:
        super().__init__(layer, matrix)
        self.latent = nn.Parameter(self._first_latent(matrix))
        self._settled = False

    def _value(self) -> Tensor:
        if self._settled:
            return super()._value()
        self._follow()
        return self._rounded()

    def _first_latent(self, matrix: Any) -> Tensor:
        """Latent weights of these codes, float32 [out, in]."""
        return latent_weights(self.layer[0].weight, matrix)

    def _rounded(self) -> Tensor:
        """Values at the codes as they are, with gradients to `latent` and `scales`."""
        value: Tensor = RoundedLatent.apply(self.latent, self.scales)
        return value

    @torch.no_grad()
    def settle(self) -> None:
        """Takes the codes off the latent weights, for good; then as ScaledLinear."""
        self._follow()
        self._settled = True
        super().settle()

    def _follow(self) -> None:
        self._matrix = replace(self._matrix, codes=latent_codes(self.latent, self.scales))


def latent_from_master_weights(block: nn.Module) -> dict[str, LatentLinear]:
    """Stand-ins whose codes follow latent weights, for the block's BitLinears."""
    layers = list(bit_linears(block))
    return {name: LatentLinear(layer, layer.quantizer.quantize(layer.weight)) for name, layer in layers}


def latent_weights(weight: Tensor, matrix: QuantizedMatrix[Tensor]) -> Tensor:
    """float32 [out, in]: each weight, moved to where it rounds to its code."""
    ratio = _over_scales(weight.float(), matrix.scales)
    grouped = matrix.codes.view_as(ratio).float()
    ratio = torch.minimum(torch.maximum(ratio, grouped - _LATENT_ROOM), grouped + _LATENT_ROOM)
    return (ratio * matrix.scales.unsqueeze(-1)).view_as(weight)
