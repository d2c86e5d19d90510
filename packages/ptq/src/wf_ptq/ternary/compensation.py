"""Error compensation (GPTQ; Frantar et al. 2022, arXiv 2210.17323) with three levels.

Matrices are transposed, [in, out]: one input is one row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitnet_arch.kernels import kernel_for
from bitnet_arch.rounding import MIN_SCALE

_SCALE_STEPS = 4
_SINGLE, _DOUBLE = (torch.float32, torch.complex64), (torch.float64, torch.complex128)
"""Real, complex."""


def inverse_factor(damped: Tensor) -> Tensor:
    """Upper Cholesky factor U of H^-1 = U^H U, computed in double precision; H is real or complex.

    Raises:
        ValueError: H is not finite, or not positive definite in spite of the damping.
    """
    if not damped.isfinite().all():
        raise ValueError("the damped second moments are not finite: lower the damping")
    lower, failed_at = torch.linalg.cholesky_ex(damped.to(_DOUBLE[damped.is_complex()]))
    if not failed_at:
        upper, failed_at = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    if failed_at:
        raise ValueError(
            f"the second moments are not positive definite (input {failed_at.item() - 1}): raise the damping"
        )
    return upper.to(_SINGLE[damped.is_complex()])


def fit_scales(block: Tensor, importance: Tensor) -> Tensor:
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


def compensate(rest: Tensor, factor: Tensor, block: slice, scale: Tensor) -> Tensor:
    """Rounds the inputs of a block in turn; moves their errors to those after them, in `rest`."""
    values, within = rest[block].clone(), factor[block, block].contiguous()
    scale = scale.expand(values.shape[1]).contiguous()
    if (sweep := kernel_for("compensate", values.dtype, values, within, scale)) is not None:
        codes: Tensor = sweep(values, within, scale)
    else:
        codes = _compensate_in_turn(values, within, scale)
    rest[block.stop :].addmm_(factor[block, block.stop :].t(), values, alpha=-1)
    return codes


def _compensate_in_turn(values: Tensor, within: Tensor, scale: Tensor) -> Tensor:
    """Codes of [size, out], whose `values` become errors."""
    codes = torch.empty_like(values)
    for index in range(len(values)):
        codes[index] = (values[index] / scale).round_().clamp_(-1, 1)
        values[index] = (values[index] - codes[index] * scale) / within[index, index]
        values[index + 1 :].addr_(within[index, index + 1 :], values[index], alpha=-1)
    return codes
