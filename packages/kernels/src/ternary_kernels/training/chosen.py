"""Training kernels for ternary weights whose codes and scales are chosen apart (csrc/training/chosen.inl).

    latent_codes, latent_gradients   codes as the rounding of latent weights over given scales
    code_gradients                   of the scales of fixed codes
    compensate, descend              sweeps over a run of inputs that choose codes

Weights are float32 [out, in] with scales [] or [out, groups]. The sweeps take their transpose: an input is
a row, and each column is by itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ternary_kernels import _native
from ternary_kernels.training.rows import address_of


def _group(shape: tuple[int, ...], scales: Tensor) -> int:
    """Weights that share a scale in a row; 0: the whole matrix."""
    if scales.dim() == 0:
        return 0
    if scales.dim() != 2 or scales.shape[0] != shape[0] or shape[1] % scales.shape[1]:
        raise ValueError(f"scales {list(scales.shape)} do not fit a matrix {list(shape)}")
    return shape[1] // scales.shape[1]


def _latent(latent: Tensor, scales: Tensor) -> tuple[int, int, int, int, int]:
    rows, cols = latent.shape
    return (
        address_of("latent", latent, (rows, cols), torch.float32),
        address_of("scales", scales, tuple(scales.shape), torch.float32),
        rows,
        cols,
        _group((rows, cols), scales),
    )


def latent_codes(latent: Tensor, scales: Tensor) -> Tensor:
    """clip(round(latent / scale), -1, 1) int8 [out, in]; ties to even."""
    codes = torch.empty(latent.shape, dtype=torch.int8)
    _native.latent_codes(torch.get_num_threads(), *_latent(latent, scales), codes.data_ptr())
    return codes


def latent_gradients(grad: Tensor, latent: Tensor, scales: Tensor) -> Tensor:
    """Gradient of the scales, like them; `grad` [out, in], that of scale * code, becomes the latent weights'.

    Straight through within 1.5 scales, 0 beyond; a scale gets that of code - latent / scale inside the grid
    and of the code outside (LSQ; Esser et al. 2020, arXiv 1902.08153, eq. 3).
    """
    grad_scales = torch.empty_like(scales)
    _native.latent_gradients(
        torch.get_num_threads(),
        *_latent(latent, scales),
        address_of("grad", grad, tuple(latent.shape), torch.float32),
        grad_scales.data_ptr(),
    )
    return grad_scales


def code_gradients(grad: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """Gradient of the scales, like them, of the values scale * code for that of the values [out, in]."""
    rows, cols = codes.shape
    grad_scales = torch.empty_like(scales)
    _native.code_gradients(
        torch.get_num_threads(),
        address_of("codes", codes, (rows, cols), torch.int8),
        address_of("grad", grad, (rows, cols), torch.float32),
        rows,
        cols,
        _group((rows, cols), scales),
        grad_scales.data_ptr(),
    )
    return grad_scales


def compensate(values: Tensor, factors: Tensor, scales: Tensor) -> Tensor:
    """Codes -1, 0, 1 (float32) of `values` [size, out], input by input; `values` become their errors.

    error_i = (value_i - code_i scale) / factors[i, i], and value_j -= factors[i, j] error_i for j > i.

    Args:
        factors: float32 [size, size]; scales: float32 [out].
    """
    codes = torch.empty_like(values)
    _native.compensate(torch.get_num_threads(), *_sweep(values, codes, factors, scales))
    return codes


def descend(codes: Tensor, gradient: Tensor, own: Tensor, scales: Tensor) -> None:
    """Each code of [size, out] in turn becomes the best of -1, 0, 1; `codes` and `gradient` change.

    Args:
        gradient: half that of the error, float32 [size, out].
        own: the curvature, float32 [size, size]; scales: float32 [out].
    """
    _native.descend(torch.get_num_threads(), *_sweep(gradient, codes, own, scales))


def _sweep(values: Tensor, codes: Tensor, factors: Tensor, scales: Tensor) -> tuple[int, ...]:
    size, cols = values.shape
    return (
        address_of("values", values, (size, cols), torch.float32),
        address_of("codes", codes, (size, cols), torch.float32),
        address_of("factors", factors, (size, size), torch.float32),
        address_of("scales", scales, (cols,), torch.float32),
        size,
        cols,
    )
