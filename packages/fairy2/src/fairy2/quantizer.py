"""The quantizers of Fairy2i, `fairy2-w1` and `fairy2-w2`: one plane of phases, or two (phases.py).

A matrix is taken as a widely linear map of complex vectors, whose weights are rounded; what comes out is a
real matrix again. Activations are int8 per token: the halves of a token are the parts of one complex vector,
and have one scale. Master weights are real, and gradients pass straight through.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bitnet_arch import Quantizer
from fairy2.alphabet import Alphabet, phase_codes
from fairy2.master_weights import phase_master_weights, storable_scales
from fairy2.phases import PhaseMatrix, quantize_parts
from fairy2.solve import solve
from fairy2.widely_linear import complex_curvature, complex_rows, to_parts


@dataclass(frozen=True)
class PhaseQuantizer(Quantizer):
    """Sums of `num_planes` phases, that many bits a weight."""

    has_integer_products: ClassVar[bool] = False
    num_planes: int

    @property
    def name(self) -> str:
        return f"fairy2-w{self.num_planes}"

    def check(self, in_features: int) -> None:
        if in_features % 2:
            raise ValueError(f"rows of {in_features} inputs: {self.name} needs an even number, of two halves")

    def check_shape(self, out_features: int, in_features: int) -> None:
        self.check(in_features)
        if out_features % 2:
            raise ValueError(f"{out_features} outputs: {self.name} needs an even number, of two halves")

    def quantize(self, weight: Tensor) -> PhaseMatrix:
        self.check_shape(*weight.shape)
        return quantize_parts(to_parts(weight.detach().float()), self.num_planes)

    def at_scales(self, latent: Tensor, scales: Tensor) -> PhaseMatrix:
        """As `quantize`, with scales [planes, 2, 2] that are given."""
        return quantize_parts(to_parts(latent.detach().float()), self.num_planes, scales)

    def storable(self, scales: Tensor) -> Tensor:
        return storable_scales(scales)

    def master_weights(self, chosen: PhaseMatrix, latent: Tensor) -> Tensor:
        return phase_master_weights(chosen, latent)

    def solve(self, weight: Tensor, curvature: Tensor, num_sweeps: int) -> PhaseMatrix:
        """Phases with a small error on inputs of these second moments (solve.py).

        The scales of U grow or shrink together, and those of W: fitted one by one they come so near to each
        other, on real text, that no master weights have the phases.
        """
        start = self.quantize(weight).scales
        alphabet = Alphabet.of_phases(start)
        rows, moments = complex_rows(weight), complex_curvature(curvature)
        letters, factors = solve(rows, moments, alphabet, torch.ones(2), num_sweeps)
        return PhaseMatrix(phase_codes(letters, self.num_planes), start * factors[:, None])


def make(name: str) -> PhaseQuantizer:
    """`fairy2-w1` or `fairy2-w2`."""
    found = re.fullmatch(r"fairy2-w([12])", name)
    assert found is not None, name
    return PhaseQuantizer(int(found[1]))
