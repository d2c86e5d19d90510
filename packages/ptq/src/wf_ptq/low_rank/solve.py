"""The best correction of a rank: reduced-rank regression of what a quantized linear lacks on its input.

    min |r - U V^T x|^2 over U [out, k], V [in, k], summed over tokens

with x the linear's input, unrounded, and r = W x - Q(W) Q(x) what its output lacks: r has the rounding of
the activations in it (Scetbon and Hensman 2024, LRC, arXiv 2412.07902, whose M is C S^-1 below; Izenman
1975 for the regression). With S = sum x x^T = L L^T and C = sum r x^T the sum is |C L^-T - U V^T L|^2 and
something that neither factor changes, so U V^T L is the truncated singular value decomposition of
A = C L^-T: with P the first k left singular vectors, U = P and V^T = P^T A L^-1.

P comes from the eigenvectors of the smaller of A A^T and A^T A, in float64. Cost: in^3 / 3 for L, out in^2
for A and min(out, in)^3 for the eigenvectors: 0.5 s for 1536 x 576 on one core.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wf_ptq.low_rank.residuals import Residuals

_TINY = 1e-100
"""Divided by instead of 0."""
_LEAST_RIDGE = 1e-12
"""Of inputs that are all 0."""


@dataclass(frozen=True)
class Correction:
    """u: float32 [out, k]; v: float32 [in, k], columns of equal norms in both.

    before, after: squared error of the linear's output, relative to its square, on the calibration text.
    """

    u: Tensor
    v: Tensor
    before: float
    after: float


def solve_correction(residuals: Residuals, rank: int, damping: float) -> Correction:
    """The correction of a rank.

    Args:
        rank: from 1 to the smaller size of the matrix.
        damping: added to the diagonal of S, as a share of its mean.
    Raises:
        ValueError: moments that are not finite, or that the damping does not make positive definite.
    """
    inputs, cross = residuals.inputs.double(), residuals.cross.double()
    if not (inputs.isfinite().all() and cross.isfinite().all()):
        raise ValueError("the second moments of a linear are not finite")
    factor = _cholesky(inputs, damping)
    whitened = torch.linalg.solve_triangular(factor, cross.t(), upper=False).t()
    u, projected = _truncated(whitened, rank)
    v = torch.linalg.solve_triangular(factor.t(), projected.t(), upper=True)
    error = residuals.residual - 2 * (cross @ v * u).sum() + ((v.t() @ inputs @ v) * (u.t() @ u)).sum()
    target = max(residuals.target, _TINY)
    u, v = _balanced(u, v)
    return Correction(u.float(), v.float(), residuals.residual / target, max(error.item(), 0.0) / target)


def _cholesky(inputs: Tensor, damping: float) -> Tensor:
    """L of the damped moments, lower triangular."""
    ridge = (damping * inputs.diagonal().mean()).clamp_min(_LEAST_RIDGE)
    if not ridge.isfinite():
        raise ValueError(f"damping {damping:g} makes the inputs' second moments infinite: lower it")
    factor, failed = torch.linalg.cholesky_ex(inputs + ridge * torch.eye(len(inputs), dtype=inputs.dtype))
    if failed:
        raise ValueError(f"the inputs of a linear are dependent: damping {damping:g} is too small, raise it")
    return factor


def _truncated(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """left [rows, rank] and right [rank, cols] whose product is the nearest matrix of that rank."""
    if matrix.shape[0] <= matrix.shape[1]:
        left = _leading(matrix @ matrix.t(), rank)
        return left, left.t() @ matrix
    right = _leading(matrix.t() @ matrix, rank)
    return matrix @ right, right.t()


def _leading(gram: Tensor, rank: int) -> Tensor:
    """Orthonormal eigenvectors of the largest eigenvalues, as columns."""
    return torch.linalg.eigh(gram).eigenvectors[:, -rank:].flip(1)


def _balanced(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The same product; each column of u as long as that of v, so that one learning rate fits both."""
    ratio = (v.norm(dim=0).clamp_min(_TINY) / u.norm(dim=0).clamp_min(_TINY)).sqrt()
    return u * ratio, v / ratio
