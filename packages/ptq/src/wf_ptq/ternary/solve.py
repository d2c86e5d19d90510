"""Ternary codes and scales of one matrix, given the second moments of its inputs.

Minimizes the squared output error on calibration tokens over codes Q in {-1, 0, 1} and scales s,
    E = tr((sQ - W) H (sQ - W)^T),    H = mean of x x^T over the tokens, x as quantized to int8,
shrunk towards its diagonal (Schäfer and Strimmer 2005, doi 10.2202/1544-6115.1175): codes must not live by
inputs that cancel each other exactly, which those of the finished model never do again.
1. Error compensation (GPTQ; Frantar et al. 2022, arXiv 2210.17323): input by input, the error of the
   rounded weight is made up for by the weights still to come, through the Cholesky factor of H^-1.
   A group's scale is fitted to the compensated weights when the group is reached.
2. Coordinate descent (CDQuant; Nair and Suggala 2024, arXiv 2406.17542): group by group, scales by
   least squares and each code exactly in turn, with all others held; E never rises.
3. Rows (the matrix with `tensor`) for which absmean rounding errs less keep it.
The coupling of weights within a row is what plain rounding ignores: on a query projection of
SmolLM2-135M with groups of 64, E falls from 0.41 of |Wx|^2 (absmean) to 0.19 (best scale per group),
0.035 (1) and 0.027 (1 and 2). Cost: O(out in^2), 0.1 to 0.5 s per matrix there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bitnet_arch import TernaryQuantizer
from bitnet_arch.last_input import LastInput
from bitnet_arch.rounding import MIN_SCALE, Quantized
from wf_formats.matrix import QuantizedMatrix
from wf_ptq.options import SolveOptions
from wf_ptq.ternary.compensation import compensate, fit_scales, inverse_factor
from wf_ptq.ternary.descent import descend, descend_codes, half_gradient

_BLOCK = 64
"""Inputs treated together with `tensor` granularity (with groups: a group)."""
_TENSOR_SCALE_RATIOS = (0.8, 1.0, 1.25, 1.55)
"""Scales to start from, over absmean's: least squares alone moves a shared scale only a little."""


@dataclass(frozen=True)
class Solution:
    """What was chosen for one matrix, and squared output errors over |Wx|^2: its own and that of rounding."""

    matrix: Any
    error: float
    naive_error: float


@dataclass(frozen=True)
class Curvature:
    """Of E, [in, in]: the shrunk and damped H, and the upper Cholesky factor of its inverse."""

    damped: Tensor
    factor: Tensor

    @classmethod
    def of(cls, moments: Tensor, options: SolveOptions) -> Curvature:
        """Raises: ValueError (not finite, or not positive definite in spite of the damping)."""
        if not moments.isfinite().all():
            raise ValueError("the second moments of the inputs are not finite: the activations overflowed")
        mean = moments.diagonal().mean()
        if mean == 0:  # every input dead: only the weights themselves are left to go by
            damped = torch.eye(len(moments))
        else:
            diagonal = moments.diagonal()
            damped = moments.float() * (1 - options.shrinkage)
            damped.diagonal().copy_(diagonal + options.damping * mean)
        return cls(damped, inverse_factor(damped))


_CURVATURE: LastInput[Curvature] = LastInput()
"""Of the last moments: linears with the same input follow each other."""


def curvature_of(moments: Tensor, in_features: int, options: SolveOptions) -> Curvature:
    """Raises: ValueError as `Curvature.of`, and for moments of other inputs."""
    if moments.shape != (in_features, in_features):
        raise ValueError(f"moments of shape {tuple(moments.shape)} do not fit {in_features} inputs")
    return _CURVATURE.of(moments, lambda moments: Curvature.of(moments, options), options)


def output_error(matrix: Quantized, weight: Tensor, moments: Tensor) -> Tensor:
    """Squared output error of each row, [out], in units of the moments (0 where they are 0)."""
    difference = matrix.values() - weight
    return ((difference @ moments) * difference).sum(1)


@torch.no_grad()
def solve_linear(
    weight: Tensor,
    moments: Tensor,
    quantizer: TernaryQuantizer,
    options: SolveOptions = SolveOptions(),  # noqa: B008 (frozen)
) -> Solution:
    """Codes and scales of one matrix.

    Args:
        weight: [out, in].
        moments: float32 [in, in], mean of x x^T; may be singular (inputs that are always 0).
        quantizer: what shares a scale.
    Returns:
        codes, and scales that master weights can carry; for no row (with one scale: not for the matrix)
        a larger `output_error` than absmean's.
    Raises:
        ValueError: moments of another size, not finite, or not positive definite with this damping.
    """
    weight = weight.detach().float()
    curvature = curvature_of(moments, weight.shape[1], options)
    naive = quantizer.quantize(weight)
    naive = replace(naive, scales=quantizer.storable(naive.scales))
    if quantizer.group_size is None:
        solved = _solve_tensor(weight, curvature, naive.scales, options)
    else:
        solved = _solve_groups(weight, curvature, quantizer.group_size, options)
        solved = replace(solved, scales=quantizer.storable(solved.scales))
    return _better_of(solved, naive, weight, moments)


def _better_of(
    solved: QuantizedMatrix[Tensor], naive: QuantizedMatrix[Tensor], weight: Tensor, moments: Tensor
) -> Solution:
    """The better of each row, or of both matrices where rows share a scale."""
    error, naive_error = (output_error(matrix, weight, moments) for matrix in (solved, naive))
    has_own_scales = solved.scales.dim() > 0
    better = (error <= naive_error)[:, None] if has_own_scales else error.sum() <= naive_error.sum()
    codes = torch.where(better, solved.codes, naive.codes)
    scales = torch.where(better, solved.scales, naive.scales)
    kept = torch.where(better.view(-1), error, naive_error)
    return solution(QuantizedMatrix(codes, scales), kept, naive_error, weight, moments)


def solution(matrix: Any, error: Tensor, naive_error: Tensor, weight: Tensor, moments: Tensor) -> Solution:
    """With the errors of rows, [out], over what the weights put out."""
    energy = ((weight @ moments) * weight).sum().clamp(min=torch.finfo(torch.float32).tiny)
    return Solution(matrix, (error.sum() / energy).item(), (naive_error.sum() / energy).item())


def _transposed(weight: Tensor) -> Tensor:
    """A copy [in, out]: one input is one row."""
    return weight.t().clone(memory_format=torch.contiguous_format)


def _solve_groups(
    weight: Tensor, curvature: Curvature, size: int, options: SolveOptions
) -> QuantizedMatrix[Tensor]:
    damped, factor = curvature.damped, curvature.factor
    rest = _transposed(weight)
    codes, scales = torch.empty_like(rest), rest.new_empty(rest.shape[0] // size, rest.shape[1])
    for group, start in enumerate(range(0, rest.shape[0], size)):
        block = slice(start, start + size)
        scales[group] = fit_scales(rest[block], factor[block, block].diagonal().pow(-2))
        codes[block] = compensate(rest, factor, block, scales[group])
    gradient = half_gradient(codes, scales, weight, damped)
    for _ in range(options.num_sweeps):
        descend(codes, scales, gradient, damped)
    return QuantizedMatrix(codes.t().to(torch.int8).contiguous(), scales.t().contiguous())


def _solve_tensor(
    weight: Tensor, curvature: Curvature, naive_scale: Tensor, options: SolveOptions
) -> QuantizedMatrix[Tensor]:
    damped, factor = curvature.damped, curvature.factor
    size = weight.shape[1]
    candidates = []
    for ratio in _TENSOR_SCALE_RATIOS:
        rest = _transposed(weight)
        codes, scale = torch.empty_like(rest), naive_scale * ratio
        for start in range(0, size, _BLOCK):
            block = slice(start, min(start + _BLOCK, size))
            codes[block] = compensate(rest, factor, block, scale)
        candidates.append(_polished(codes, scale, weight, damped, 1))
    codes, scale = min(candidates, key=lambda found: _total_error(found[0], found[1], weight, damped))
    codes, scale = _polished(codes, scale, weight, damped, options.num_sweeps)
    return QuantizedMatrix(codes.t().to(torch.int8).contiguous(), scale)


def _polished(
    codes: Tensor, scale: Tensor, weight: Tensor, damped: Tensor, num_sweeps: int
) -> tuple[Tensor, Tensor]:
    """Codes in turn, then the one scale by least squares, `num_sweeps` times."""
    codes = codes.clone()
    target = damped @ weight.t()
    for _ in range(num_sweeps):
        gradient = damped @ (codes * scale) - target
        for start in range(0, weight.shape[1], _BLOCK):
            block = slice(start, min(start + _BLOCK, weight.shape[1]))
            before = codes[block].clone()
            descend_codes(codes[block], gradient[block].clone(), damped[block, block], scale)
            gradient.addmm_(damped[:, block], (codes[block] - before) * scale)
        curvature = ((damped @ codes) * codes).sum()
        if curvature > 0:
            scale = ((target * codes).sum() / curvature).clamp(min=MIN_SCALE)
    return codes, scale


def _total_error(codes: Tensor, scale: Tensor, weight: Tensor, damped: Tensor) -> float:
    difference = codes * scale - weight.t()
    return ((damped @ difference) * difference).sum().item()
