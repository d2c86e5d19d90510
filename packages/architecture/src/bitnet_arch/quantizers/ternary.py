"""The ternary maths, defined once (BitNet b1.58, Ma et al. 2024, arXiv 2402.17764, eq. 1-3, "absmean"):

    s = mean(|W|) over the scale group,  q = clip(round(W / s), -1, 1),  W' = s q

A scale group is the whole matrix (`tensor`) or runs of 64 or 128 inputs of one output row (`group64`,
`group128`). Kernels, readers and exporters are tested against this file.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bitnet_arch.kernels import kernel_for
from bitnet_arch.quantizers.base import Quantizer, refuse_rows
from bitnet_arch.quantizers.master_weights import group_master_weights, tensor_master_weights
from bitnet_arch.rounding import MIN_SCALE, round_clip
from wf_formats.matrix import QuantizedMatrix
from wf_formats.schemes import GROUP_SIZES

_TENSOR_TOLERANCE = 1e-6
"""Relative: a mean of up to billions of weights is exact to a few units in the last place."""


@dataclass(frozen=True)
class TernaryQuantizer(Quantizer):
    """Codes -1, 0, 1; `group_size` inputs share a scale, or (None) the whole matrix."""

    group_size: int | None = None

    def __post_init__(self) -> None:
        if self.group_size not in GROUP_SIZES.values():
            sizes = ", ".join(map(str, filter(None, GROUP_SIZES.values())))
            raise ValueError(f"group size {self.group_size} is not one of {sizes}")

    @property
    def name(self) -> str:
        return next(name for name, size in GROUP_SIZES.items() if size == self.group_size)

    @property
    def needs_sub_norm(self) -> bool:
        """One scale for a whole matrix does; groups do not."""
        return self.group_size is None

    def check(self, in_features: int) -> None:
        if self.group_size is not None and in_features % self.group_size:
            refuse_rows(in_features, self.group_size, GROUP_SIZES)

    def quantize(self, weight: Tensor) -> QuantizedMatrix[Tensor]:
        weight = weight.detach().float()
        self.check(weight.shape[1])
        if (ternarize := kernel_for("ternarize", weight.dtype, weight)) is not None:
            return QuantizedMatrix(*ternarize(weight, self.group_size, MIN_SCALE))
        if self.group_size is None:
            scratch = weight.abs()
            return QuantizedMatrix(*_round_to(_mean(scratch.view(-1))[0], weight, scratch))
        grouped = weight.view(weight.shape[0], -1, self.group_size)
        scratch = grouped.abs()
        codes, scales = _round_to(_mean(scratch), grouped, scratch)
        return QuantizedMatrix(codes.view(weight.shape), scales.squeeze(-1))

    def quantize_by(self, weight: Tensor, mean: Tensor) -> QuantizedMatrix[Tensor]:
        """`quantize` of a part of a matrix with one scale. Args: mean is float32 [], of |w| of the whole."""
        weight = weight.detach().float()
        return QuantizedMatrix(*_round_to(mean, weight, weight.abs()))

    def storable(self, scales: Tensor) -> Tensor:
        """Group scales have float16 precision, as GGUF blocks and packed folders store them, are at
        least MIN_SCALE, and have passed through the reciprocal of the reciprocal that `quantize` takes.
        """
        if self.group_size is None:
            return scales
        halves = scales.detach().float().clamp(min=MIN_SCALE).half().float()
        return 1.0 / (1.0 / halves)

    def master_weights(self, chosen: QuantizedMatrix[Tensor], latent: Tensor) -> Tensor:
        """Weights near `latent` whose absmean quantization is `chosen`.

        Args:
            chosen: group scales as `storable` returns them. The scale of a group of zeros is ignored:
                it becomes MIN_SCALE and multiplies nothing.
            latent: float32 [out, in]; only magnitudes count where the code is not zero.
        Returns:
            float32 [out, in]. Quantized again, the codes are equal; group scales are equal to the bit,
            a tensor scale up to rounding of the mean.
        """
        make = tensor_master_weights if self.group_size is None else group_master_weights
        weight = make(chosen, latent)
        self._check_inverse(weight, chosen)
        return weight

    def _check_inverse(self, weight: Tensor, chosen: QuantizedMatrix[Tensor]) -> None:
        found = self.quantize(torch.nan_to_num(weight))
        tolerance = _TENSOR_TOLERANCE if self.group_size is None else 0.0
        used = (chosen.codes.reshape(*chosen.scales.shape, -1) != 0).any(-1)
        fits = torch.allclose(found.scales[used], chosen.scales[used], tolerance, 0.0)
        if not torch.equal(found.codes, chosen.codes) or not (fits and chosen.scales.isfinite().all()):
            worst = (found.scales - chosen.scales).abs().max().item()
            raise ValueError(
                f"no weights quantize to these codes and scales "
                f"({(found.codes != chosen.codes).sum().item()} codes differ, scales by up to "
                f"{worst:.3g}): are the scales those of `storable`?"
            )


def _mean(magnitudes: Tensor) -> Tensor:
    """[..., 1] over the last dimension; summed in float64, so that it does not depend on the order."""
    return magnitudes.mean(-1, keepdim=True, dtype=torch.float64).float()


def _round_to(mean: Tensor, weight: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor]:
    """Codes like weight and the scales, by the reciprocals that transformers takes; overwrites scratch."""
    inverse = 1.0 / mean.clamp(min=MIN_SCALE)
    return round_clip(torch.mul(weight, inverse, out=scratch), -1, 1), 1.0 / inverse
