"""Ternary codes and scales of one matrix, given the second moments of its inputs.

Minimizes the squared output error on calibration tokens over codes Q in {-1, 0, 1} and scales s,
    E = tr((sQ - W) H (sQ - W)^T),    H = mean of x x^T over the tokens, x as quantized to int8.
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

import torch
from torch import Tensor

from bitnet_arch.master_weights import storable_scales
from bitnet_arch.ternary import (
    MIN_SCALE,
    Granularity,
    WeightScheme,
    dequantize,
    ternary_codes_and_scales,
)
from wf_ptq.options import SolveOptions

_BLOCK = 64
"""Inputs treated together with `tensor` granularity (with groups: a group)."""
_SCALE_STEPS = 4
_TENSOR_SCALE_RATIOS = (0.8, 1.0, 1.25, 1.55)
"""Scales to start from, over absmean's: least squares alone moves a shared scale only a little."""


def output_error(codes: Tensor, scales: Tensor, weight: Tensor, moments: Tensor) -> Tensor:
    """Squared output error of each row, [out], in units of the moments (0 where they are 0)."""
    difference = dequantize(codes, scales) - weight
    return ((difference @ moments) * difference).sum(1)


@torch.no_grad()
def solve_linear(
    weight: Tensor,
    moments: Tensor,
    scheme: WeightScheme,
    options: SolveOptions = SolveOptions(),  # noqa: B008 (frozen)
) -> tuple[Tensor, Tensor]:
    """Codes and scales of one matrix.

    Args:
        weight: [out, in].
        moments: float32 [in, in], mean of x x^T; may be singular (inputs that are always 0).
        scheme: what shares a scale.
    Returns:
        codes int8 [out, in], scales float32 ([] or [out, groups]) that master weights can carry;
        for no row (with `tensor`: not for the matrix) a larger `output_error` than absmean's.
    Raises:
        ValueError: moments of another size, not finite, or not positive definite with this damping.
    """
    weight = weight.detach().float()
    damped = _damped(weight, moments, options.damping)
    naive = ternary_codes_and_scales(weight, scheme)
    if scheme.granularity is Granularity.TENSOR:
        solved = _solve_tensor(weight, damped, naive[1], options)
        better = output_error(*solved, weight, moments).sum() <= output_error(*naive, weight, moments).sum()
        return solved if better else naive
    codes, scales = _solve_groups(
        weight, damped, weight.shape[1] // scheme.num_groups(weight.shape[1]), options
    )
    stored = storable_scales(naive[1])
    better = output_error(codes, scales, weight, moments) <= output_error(naive[0], stored, weight, moments)
    return torch.where(better[:, None], codes, naive[0]), torch.where(better[:, None], scales, stored)


def _damped(weight: Tensor, moments: Tensor, damping: float) -> Tensor:
    size = weight.shape[1]
    if moments.shape != (size, size):
        raise ValueError(f"moments of shape {tuple(moments.shape)} do not fit {size} inputs")
    if not moments.isfinite().all():
        raise ValueError("the second moments of the inputs are not finite: the activations overflowed")
    mean = moments.diagonal().mean()
    if mean == 0:  # every input dead: only the weights themselves are left to go by
        return torch.eye(size)
    damped = moments.float().clone()
    damped.diagonal().add_(damping * mean)
    return damped


def _inverse_factor(damped: Tensor) -> Tensor:
    """Upper Cholesky factor U of H^-1 = U^T U, computed in float64.

    Raises:
        ValueError: H is not positive definite in spite of the damping.
    """
    lower, failed_at = torch.linalg.cholesky_ex(damped.double())
    if failed_at:
        raise ValueError(
            f"the second moments are not positive definite (input {failed_at.item() - 1}): raise the damping"
        )
    return torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True).float()


def _transposed(weight: Tensor) -> Tensor:
    """A copy [in, out]: one input is one row."""
    return weight.t().clone(memory_format=torch.contiguous_format)


def _solve_groups(weight: Tensor, damped: Tensor, size: int, options: SolveOptions) -> tuple[Tensor, Tensor]:
    factor = _inverse_factor(damped)
    rest = _transposed(weight)
    codes, scales = torch.empty_like(rest), rest.new_empty(rest.shape[0] // size, rest.shape[1])
    for group, start in enumerate(range(0, rest.shape[0], size)):
        block = slice(start, start + size)
        scales[group] = _fit_scales(rest[block], factor[block, block].diagonal().pow(-2))
        codes[block] = _compensate(rest, factor, block, scales[group])
    for _ in range(options.num_sweeps):
        _descend(codes, scales, weight, damped)
    return codes.t().to(torch.int8).contiguous(), storable_scales(scales.t().contiguous())


def _solve_tensor(
    weight: Tensor, damped: Tensor, naive_scale: Tensor, options: SolveOptions
) -> tuple[Tensor, Tensor]:
    factor = _inverse_factor(damped)
    size = weight.shape[1]
    candidates = []
    for ratio in _TENSOR_SCALE_RATIOS:
        rest = _transposed(weight)
        codes, scale = torch.empty_like(rest), naive_scale * ratio
        for start in range(0, size, _BLOCK):
            block = slice(start, min(start + _BLOCK, size))
            codes[block] = _compensate(rest, factor, block, scale)
        candidates.append(_polished(codes, scale, weight, damped, 1))
    codes, scale = min(candidates, key=lambda found: _total_error(found[0], found[1], weight, damped))
    codes, scale = _polished(codes, scale, weight, damped, options.num_sweeps)
    return codes.t().to(torch.int8).contiguous(), scale


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
            _descend_codes(codes[block], gradient[block].clone(), damped[block, block], scale)
            gradient.addmm_(damped[:, block], (codes[block] - before) * scale)
        curvature = ((damped @ codes) * codes).sum()
        if curvature > 0:
            scale = ((target * codes).sum() / curvature).clamp(min=MIN_SCALE)
    return codes, scale


def _total_error(codes: Tensor, scale: Tensor, weight: Tensor, damped: Tensor) -> float:
    difference = codes * scale - weight.t()
    return ((damped @ difference) * difference).sum().item()


def _fit_scales(block: Tensor, importance: Tensor) -> Tensor:
    """Scale of each column of [size, out] for rounding to nearest: the best unweighted one, then weighted."""
    largest = block.abs().sort(0, descending=True).values.cumsum(0)
    count = torch.arange(1, len(block) + 1, dtype=block.dtype).unsqueeze(1)
    best = (largest.pow(2) / count).argmax(0, keepdim=True)
    scales = (largest / count).gather(0, best).squeeze(0).clamp(min=MIN_SCALE)
    importance = importance.unsqueeze(1)
    for _ in range(_SCALE_STEPS):
        codes = (block / scales).round_().clamp_(-1, 1)
        curvature = (codes.square() * importance).sum(0)
        fitted = (block * codes * importance).sum(0) / curvature
        scales = torch.where(curvature > 0, fitted, scales).clamp_(min=MIN_SCALE)
    return scales


def _compensate(rest: Tensor, factor: Tensor, block: slice, scale: Tensor) -> Tensor:
    """Rounds the inputs of a block in turn; moves their errors to those after them, in `rest`."""
    current, within = rest[block].clone(), factor[block, block]
    codes, errors = torch.empty_like(current), torch.empty_like(current)
    for index in range(len(current)):
        codes[index] = (current[index] / scale).round_().clamp_(-1, 1)
        errors[index] = (current[index] - codes[index] * scale) / within[index, index]
        current[index + 1 :].addr_(within[index, index + 1 :], errors[index], alpha=-1)
    rest[block.stop :].addmm_(factor[block, block.stop :].t(), errors, alpha=-1)
    return codes


def _descend(codes: Tensor, scales: Tensor, weight: Tensor, damped: Tensor) -> None:
    """One sweep over the groups, in place: scale, codes in turn, scale again."""
    num_groups = len(scales)
    size = len(codes) // num_groups
    values = (codes.view(num_groups, size, -1) * scales.unsqueeze(1)).view_as(codes)
    gradient = damped @ (values - weight.t())  # half the gradient of E
    for group in range(num_groups):
        block = slice(group * size, (group + 1) * size)
        here, own = gradient[block].clone(), damped[block, block]
        before = codes[block] * scales[group]
        scale = _descend_scale(codes[block], scales[group], here, own)
        _descend_codes(codes[block], here, own, scale)
        scales[group] = _descend_scale(codes[block], scale, here, own)
        gradient.addmm_(damped[:, block], codes[block] * scales[group] - before)


def _descend_scale(codes: Tensor, scale: Tensor, gradient: Tensor, own: Tensor) -> Tensor:
    """The least-squares scale of each column, if positive; `gradient` follows."""
    direction = own @ codes
    curvature = (codes * direction).sum(0)
    step = (codes * gradient).sum(0) / curvature
    moved = scale - step
    moved = torch.where((curvature > 0) & (moved > MIN_SCALE), moved, scale)
    gradient += direction * (moved - scale)
    return moved


def _descend_codes(codes: Tensor, gradient: Tensor, own: Tensor, scale: Tensor) -> None:
    """Each code of [size, out] in turn to the best of -1, 0, 1; changes both arguments."""
    curvature = own.diagonal().tolist()
    for index, value in enumerate(curvature):
        best = (codes[index] - gradient[index] / (value * scale)).round_().clamp_(-1, 1)
        gradient.addr_(own[index], (best - codes[index]) * scale)
        codes[index] = best
