"""Codes and scales of one linear, chosen on text, whatever its quantizer.

Ternary weights have a solver here (ternary/solve.py). Another quantizer brings what depends on its codes: how
to choose them (`solve`), and which ones latent weights have at given scales (`at_scales`). Everything else,
moments, walk, refinement by gradients, distillation and the way back into a checkpoint, is the same for all.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from bitnet_arch import BitLinear, TernaryQuantizer
from wf_ptq.layers import ScaledLinear
from wf_ptq.options import SolveOptions
from wf_ptq.ternary.layers import LatentLinear
from wf_ptq.ternary.solve import Solution, curvature_of, output_error, solution, solve_linear


@runtime_checkable
class SolvableQuantizer(Protocol):
    """A `bitnet_arch.Quantizer` with an inverse, whose matrices are what `wf_ptq.layers` takes."""

    def solve(self, weight: Tensor, curvature: Tensor, num_sweeps: int) -> Any:
        """A matrix Q of its codes and scales with a small error tr((Q - W) H (Q - W)^T).

        Args:
            weight: W, float32 [out, in].
            curvature: H, float32 [in, in], symmetric and positive definite.
            num_sweeps: of coordinate descent.
        """
        ...

    def at_scales(self, latent: Tensor, scales: Tensor) -> Any:
        """The matrix of the codes that `latent` [out, in] has with these scales."""
        ...


class FollowingLinear(LatentLinear):
    """Codes follow `latent` by the quantizer's own rounding at the scales, until they settle.

    Backwards the latent weights get the gradient of the values, straight through, and the scales theirs at
    the codes as they are.
    """

    def _first_latent(self, matrix: Any) -> Tensor:
        layer = self.layer[0]
        latent: Tensor = layer.quantizer.master_weights(matrix, layer.weight.detach().float())
        return latent

    def _rounded(self) -> Tensor:
        value: Tensor = dataclasses.replace(self._matrix, scales=self.scales).values()
        return value + (self.latent - self.latent.detach())

    def _follow(self) -> None:
        quantizer: Any = self.layer[0].quantizer
        self._matrix = quantizer.at_scales(self.latent.detach(), self.scales.detach())


def choose(layer: BitLinear, moments: Tensor, options: SolveOptions) -> tuple[ScaledLinear, Solution]:
    """The stand-in of a linear with the chosen codes and scales.

    Args:
        moments: float32 [in, in], mean of x x^T.
    Raises:
        ValueError: as `solve_linear`; a quantizer whose codes nothing chooses.
    """
    if isinstance(layer.quantizer, TernaryQuantizer):
        found = solve_linear(layer.weight, moments, layer.quantizer, options)
        return LatentLinear(layer, found.matrix), found
    if not isinstance(layer.quantizer, SolvableQuantizer):
        raise ValueError(
            f"codes of scheme {layer.quantizer} are not chosen on text: its quantizer has no `solve` and "
            "`at_scales`; train it as it is rounded (training.accept_from=[stage1])"
        )
    found = _solved(layer, moments, options)
    return FollowingLinear(layer, found.matrix), found


@torch.no_grad()
def _solved(layer: BitLinear, moments: Tensor, options: SolveOptions) -> Solution:
    """The quantizer's own choice, or rounding where that errs less."""
    quantizer: Any = layer.quantizer
    weight = layer.weight.detach().float()
    curvature = curvature_of(moments, weight.shape[1], options)
    naive = _storable(quantizer, quantizer.quantize(weight))
    matrix = _storable(quantizer, quantizer.solve(weight, curvature.damped, options.num_sweeps))
    error, naive_error = (output_error(one, weight, moments) for one in (matrix, naive))
    if error.sum() > naive_error.sum():
        matrix, error = naive, naive_error
    return solution(matrix, error, naive_error, weight, moments)


def _storable(quantizer: Any, matrix: Any) -> Any:
    return dataclasses.replace(matrix, scales=quantizer.storable(matrix.scales))
