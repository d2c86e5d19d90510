"""Float master weights that quantize to given ternary codes and scales.

Absmean quantization (ternary.py, which checks what is made here) reads code and scale off the same
weights: the scale of a group is its mean |w|, a code is zero below half of that. Codes and scales
that were chosen by other means are therefore handed on as weights made for them: signs and sides of the
threshold from the codes, the mean from the scale, and whatever freedom is left goes to staying close to
the latent weights.

With `group` the sums are exact. A scale of float16 precision is m units of 2^e with m < 2^15, so a
group of up to 128 weights, each a whole number of units, sums to less than 2^24 units: float32 adds
that without rounding, in any order, on any machine. With `tensor` the mean is that of up to billions
of weights and exact to a few units in the last place.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wf_formats.matrix import QuantizedMatrix

_UNIT_BITS = 14
_MARGIN = 0.02
"""Distance of every weight to the threshold between two codes, as a share of the scale."""


def tensor_master_weights(chosen: QuantizedMatrix[Tensor], latent: Tensor) -> Tensor:
    """float32 [out, in] near `latent` with the codes and the one scale of `chosen`."""
    if not chosen.codes.any():
        return torch.zeros_like(latent)
    flat = chosen.codes.reshape(1, -1), chosen.scales.reshape(1, 1)
    weight = _with_mean(*flat, latent.reshape(1, -1))
    # Latent weights far above the scale cancel; the second time they are near it.
    return _with_mean(*flat, weight).view(latent.shape)


def group_master_weights(chosen: QuantizedMatrix[Tensor], latent: Tensor) -> Tensor:
    """float32 [out, in] near `latent` with the codes and the group scales (float16) of `chosen`."""
    grouped = chosen.codes.reshape(-1, chosen.codes.shape[1] // chosen.scales.shape[1])
    weight = _in_units(grouped, chosen.scales.reshape(-1, 1), latent.reshape(grouped.shape))
    return weight.view(latent.shape)


def _in_units(codes: Tensor, scales: Tensor, latent: Tensor) -> Tensor:
    """[groups, group size]: magnitudes as whole units that sum to group size times the scale."""
    halves = scales.half().double()
    unit = torch.exp2(halves.log2().floor() - _UNIT_BITS)
    scale_units = halves / unit
    magnitude = _with_mean(codes, halves, latent.double()).abs().div_(unit).round_()
    # Rounding moved the sum by a few units: weights off zero take them one by one, in turn.
    nonzero = codes != 0
    missing = codes.shape[1] * scale_units - magnitude.sum(1, keepdim=True)
    count = nonzero.sum(1, keepdim=True).clamp(min=1)
    whole = torch.div(missing, count, rounding_mode="floor")
    rank = nonzero.cumsum(1)
    magnitude += torch.where(nonzero, whole + (rank <= missing - whole * count), 0)
    empty = ~nonzero.any(1, keepdim=True)
    signs = torch.where(nonzero, codes, latent.sign().to(codes.dtype))
    return torch.where(empty, 0.0, signs * magnitude * unit).float()


def _with_mean(codes: Tensor, scales: Tensor, latent: Tensor) -> Tensor:
    """[groups, size]: signed weights on the codes' sides of the threshold whose mean |w| is the scale."""
    nonzero = codes != 0
    floor = torch.where(nonzero, scales * (0.5 + _MARGIN), torch.zeros_like(scales))
    ceiling = torch.where(nonzero, torch.inf, scales * (0.5 - _MARGIN))
    magnitude = torch.where(nonzero, latent * codes, latent.abs())
    magnitude = torch.minimum(torch.maximum(magnitude, floor), ceiling)
    size = codes.shape[1]
    excess = magnitude.sum(1, keepdim=True) - size * scales
    slack = magnitude - floor
    too_much = excess.clamp(min=0) / slack.sum(1, keepdim=True).clamp(min=torch.finfo(slack.dtype).tiny)
    too_little = (-excess).clamp(min=0) / nonzero.sum(1, keepdim=True).clamp(min=1)
    magnitude = magnitude - too_much * slack + torch.where(nonzero, too_little, 0)
    return torch.where(nonzero, codes, latent.sign().to(codes.dtype)) * magnitude
