"""The stand-in for a BitLinear whose ternary codes follow latent weights."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitnet_arch import BitLinear
from wf_formats.matrix import QuantizedMatrix
from wf_ptq.inputs import SharedInput
from wf_ptq.layers import ScaledLinear

_LATENT_ROOM = 0.45
"""How far a latent weight may start from its code, in scales; 0.5 is the threshold to the next."""


class RoundedLatent(torch.autograd.Function):
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


class LatentLinear(ScaledLinear):
    """Codes are the rounding of `latent` over the scales; `codes` are those as of the last `settle`."""

    latent: nn.Parameter

    def __init__(self, layer: BitLinear, matrix: QuantizedMatrix[Tensor], round_input: SharedInput) -> None:
        super().__init__(layer, matrix, round_input)
        self.latent = nn.Parameter(latent_weights(layer.weight, matrix))

    def _product(self, x: Tensor) -> Tensor:
        return F.linear(x, RoundedLatent.apply(self.latent, self.scales, x.dtype))

    @torch.no_grad()
    def settle(self) -> None:
        """Takes the codes off the latent weights; then as ScaledLinear."""
        ratio = self.latent.view(*self.scales.shape, -1) / self.scales.unsqueeze(-1)
        self.codes = ratio.round_().clamp_(-1, 1).to(torch.int8).view_as(self.latent)
        super().settle()


def latent_weights(weight: Tensor, matrix: QuantizedMatrix[Tensor]) -> Tensor:
    """float32 [out, in]: each weight, moved to where it rounds to its code."""
    shape = (*matrix.scales.shape, -1)
    ratio = weight.float().view(shape) / matrix.scales.unsqueeze(-1)
    grouped = matrix.codes.view(shape).float()
    ratio = torch.minimum(torch.maximum(ratio, grouped - _LATENT_ROOM), grouped + _LATENT_ROOM)
    return (ratio * matrix.scales.unsqueeze(-1)).view_as(weight)
