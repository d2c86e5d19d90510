"""Coordinate descent (CDQuant; Nair and Suggala 2024, arXiv 2406.17542) with three levels; E never rises.

Codes and scales are transposed, [in, out] and [groups, out]; weight is [out, in] and damped [in, in].
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitnet_arch.kernels import kernel_for
from bitnet_arch.rounding import MIN_SCALE


def half_gradient(codes: Tensor, scales: Tensor, weight: Tensor, damped: Tensor) -> Tensor:
    """Of E, [in, out]: H (sQ - W)."""
    num_groups = len(scales)
    values = (codes.view(num_groups, len(codes) // num_groups, -1) * scales.unsqueeze(1)).view_as(codes)
    return damped @ (values - weight.t())


def descend(codes: Tensor, scales: Tensor, gradient: Tensor, damped: Tensor) -> None:
    """One sweep over the groups, in place: scale, codes in turn, scale again; `gradient` follows."""
    size = len(codes) // len(scales)
    for group in range(len(scales)):
        block = slice(group * size, (group + 1) * size)
        here, own = gradient[block].clone(), damped[block, block]
        before = codes[block] * scales[group]
        scale = _move_scale(codes[block], scales[group], here, own)
        descend_codes(codes[block], here, own, scale)
        scales[group] = _move_scale(codes[block], scale, here, own)
        gradient.addmm_(damped[:, block], codes[block] * scales[group] - before)


def _move_scale(codes: Tensor, scale: Tensor, gradient: Tensor, own: Tensor) -> Tensor:
    """The least-squares scale of each column, if positive; `gradient` follows."""
    direction = own @ codes
    curvature = (codes * direction).sum(0)
    step = (codes * gradient).sum(0) / curvature
    moved = scale - step
    moved = torch.where((curvature > 0) & (moved > MIN_SCALE), moved, scale)
    gradient += direction * (moved - scale)
    return moved


def descend_codes(codes: Tensor, gradient: Tensor, own: Tensor, scale: Tensor) -> None:
    """Each code of [size, out] in turn to the best of -1, 0, 1; changes both arguments."""
    own, scale = own.contiguous(), scale.expand(codes.shape[1]).contiguous()
    if (sweep := kernel_for("descend", codes.dtype, codes, gradient, own, scale)) is not None:
        sweep(codes, gradient, own, scale)
        return
    curvature = own.diagonal().tolist()
    for index, value in enumerate(curvature):
        best = (codes[index] - gradient[index] / (value * scale)).round_().clamp_(-1, 1)
        gradient.addr_(own[index], (best - codes[index]) * scale)
        codes[index] = best
