"""Float master weights that quantize to given ternary codes and scales.

Absmean quantization (ternary.py) reads code and scale off the same weights: the scale of a group is
its mean |w|, a code is zero below half of that. Codes and scales that were chosen by other means are
therefore handed on as weights made for them: signs and sides of the threshold from the codes, the
mean from the scale, and whatever freedom is left goes to staying close to the latent weights.

With `group` the sums are exact. A scale of float16 precision is m units of 2^e with m < 2^15, so a
group of up to 128 weights, each a whole number of units, sums to less than 2^24 units: float32 adds
that without rounding, in any order, on any machine. With `tensor` the mean is that of up to billions
of weights and exact to a few units in the last place.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitnet_arch.ternary import MIN_SCALE, Granularity, WeightScheme, ternary_codes_and_scales

_UNIT_BITS = 14
_MARGIN = 0.02
"""Distance of every weight to the threshold between two codes, as a share of the scale."""


def storable_scales(scales: Tensor) -> Tensor:
    """The nearest group scales that master weights can carry, float32, at least MIN_SCALE.

    They have float16 precision, as GGUF blocks and packed folders store them, and passed through
    the reciprocal of the reciprocal that `ternary_codes_and_scales` takes.
    """
    halves = scales.detach().float().clamp(min=MIN_SCALE).half().float()
    return 1.0 / (1.0 / halves)


def master_weights(codes: Tensor, scales: Tensor, latent: Tensor, scheme: WeightScheme) -> Tensor:
    """Weights near `latent` whose absmean quantization is (codes, scales).

    Args:
        codes: int8 [out, in] in {-1, 0, 1}.
        scales: float32, [] for `tensor`, [out, in/group] for `group`; group scales as
            `storable_scales` returns them. The scale of a group of zeros is ignored: it becomes
            MIN_SCALE and multiplies nothing.
        latent: float32 [out, in], weights to stay close to; only magnitudes count where the code is
            not zero.
        scheme: what shares a scale.
    Returns:
        float32 [out, in]. Quantized again, the codes are equal; group scales are equal to the bit,
        a tensor scale up to rounding of the mean.
    Raises:
        ValueError: scales that no weights can have.
    """
    if scheme.granularity is Granularity.TENSOR:
        flat = codes.reshape(1, -1), scales.reshape(1, 1), latent.reshape(1, -1)
        weight = _with_mean(*flat)
        # Latent weights far above the scale cancel; the second time they are near it.
        weight = _with_mean(*flat[:2], weight) if codes.any() else torch.zeros_like(weight)
    else:
        num_groups = scheme.num_groups(codes.shape[1])
        grouped = codes.reshape(-1, codes.shape[1] // num_groups)
        weight = _in_units(grouped, scales.reshape(-1, 1), latent.reshape(grouped.shape))
    weight = weight.view(codes.shape)
    _check(weight, codes, scales, scheme)
    return weight


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


def _check(weight: Tensor, codes: Tensor, scales: Tensor, scheme: WeightScheme) -> None:
    found_codes, found_scales = ternary_codes_and_scales(weight, scheme)
    tolerance = 1e-6 if scheme.granularity is Granularity.TENSOR else 0.0
    used = (codes.reshape(*scales.shape, -1) != 0).any(-1)
    fits = torch.allclose(found_scales[used], scales[used], tolerance, 0.0) and scales.isfinite().all()
    if not torch.equal(found_codes, codes) or not fits:
        worst = (found_scales - scales).abs().max().item()
        raise ValueError(
            f"no weights quantize to these codes and scales ({(found_codes != codes).sum().item()} codes "
            f"differ, scales by up to {worst:.3g}): are the scales those of storable_scales?"
        )
