"""Scales of the inputs of some linears, and ranges of their weights (AWQ, Lin et al. 2023, arXiv 2306.00978).

Scales: few inputs are large, and the weights that they meet count for more. Multiplied by s > 1 before they
are rounded, while their input is divided by s, such weights lose less (eq. 4). Tried are
    s = mean|x|^r, r = 0, 1/20, ... 19/20, divided by sqrt(max s * min s)
and the s is taken with which the output of the inspected module moves least when W becomes Q(W s) / s.

Ranges: of each group of weights, all that exceed a share of its largest magnitude are cut off there, which
makes the steps finer; the share is that of 1, 19/20, ... 11/20 with the least error of the group's part of
the output. For a linear by itself, and so for groups, the squared error needs second moments alone: where d
is lost of a row's weights, it is E (x d)^2 = d H d^T.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bitnet_arch import BitLinear, Quantizer

_LEAST = 1e-4
"""Of a scale before they are divided: inputs that are never there."""
_CLIP_STEP = 1 / 20


@dataclass(frozen=True)
class ChosenScales:
    """scales [in], exponent r, relative squared errors of the output without scales and with them."""

    scales: Tensor
    exponent: float
    rounded_error: float
    error: float


def candidates(magnitude: Tensor, num_exponents: int) -> Iterator[tuple[float, Tensor]]:
    """Exponents r and scales [in]; the first are all 1. Args: magnitude is mean |x|, float32 [in]."""
    for index in range(num_exponents):
        exponent = index / num_exponents
        scales = magnitude.pow(exponent).clamp(min=_LEAST)
        yield exponent, scales / (scales.max() * scales.min()).sqrt()


@torch.no_grad()
def choose_scales(
    layers: Mapping[str, BitLinear], magnitude: Tensor, num_exponents: int, error: Callable[[], float]
) -> ChosenScales:
    """The best scales of the layers' common input; the layers are as before afterwards.

    Args:
        error: relative error of the output with the layers' weights as they are at the moment.
    """
    weights = {name: layer.weight.data for name, layer in layers.items()}
    best: ChosenScales | None = None
    rounded_error = 0.0
    try:
        for exponent, scales in candidates(magnitude, num_exponents):
            for name, layer in layers.items():
                layer.weight.data = layer.quantizer.quantize(weights[name] * scales).values() / scales
            found = error()
            if best is None:
                rounded_error = found
            if best is None or found < best.error:
                best = ChosenScales(scales, exponent, rounded_error, found)
    finally:
        for name, layer in layers.items():
            layer.weight.data = weights[name]
    assert best is not None, num_exponents
    return best


def linear_error(layer: BitLinear, moment: Tensor) -> Callable[[], float]:
    """The relative error of the layer's output, beside that with its weight as it is now.

    Args:
        moment: mean x x^T of its input [in, in].
    """
    before = layer.weight.data
    kept = _energy(before, moment).clamp(min=torch.finfo(torch.float32).tiny)
    return lambda: (_energy(layer.weight.data - before, moment) / kept).item()


def _energy(rows: Tensor, moment: Tensor) -> Tensor:
    return ((rows @ moment) * rows).sum()


@torch.no_grad()
def clip(weight: Tensor, moment: Tensor, quantizer: Quantizer, group_size: int, num_clips: int) -> Tensor:
    """The weight with what is better cut off, float32 [out, in].

    Args:
        moment: mean x x^T of the input [in, in].
        group_size: inputs that share a scale.
        num_clips: how many ranges are tried.
    """
    grouped = weight.view(len(weight), -1, group_size)
    starts = range(0, weight.shape[1], group_size)
    of_groups = torch.stack([moment[at : at + group_size, at : at + group_size] for at in starts])
    largest = grouped.abs().amax(-1, keepdim=True)
    best, least = grouped, torch.full_like(largest, torch.inf)
    for index in range(num_clips):
        limit = largest * (1 - index * _CLIP_STEP)
        cut = torch.minimum(torch.maximum(grouped, -limit), limit)
        lost = (quantizer.quantize(cut.view(weight.shape)).values() - weight).view(grouped.shape)
        products = torch.bmm(lost.transpose(0, 1), of_groups).transpose(0, 1)
        error = (products * lost).sum(-1, keepdim=True)
        best = torch.where(error < least, cut, best)
        least = torch.minimum(error, least)
    return best.reshape(weight.shape)
