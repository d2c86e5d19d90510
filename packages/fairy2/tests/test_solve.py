"""Choosing letters and scales, beside the error of the real matrix computed in float64."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import bitnet_arch
from fairy2.four_levels import FourLevels, LevelMatrix
from fairy2.phases import PhaseMatrix
from fairy2.quantizer import PhaseQuantizer

SCHEMES = ("fairy2-w1", "fairy2-w2", "levels4")


def material(rows: int = 12, columns: int = 16) -> tuple[Tensor, Tensor]:
    """Weights, and second moments of inputs that go together."""
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(rows, columns, generator=generator)
    mixed = torch.randn(columns, columns, generator=generator)
    tokens = torch.randn(200, columns, generator=generator) @ (mixed / 2 + torch.eye(columns))
    return weight, tokens.t() @ tokens / 200


def error(values: Tensor, weight: Tensor, moments: Tensor) -> float:
    difference = (values - weight).double().numpy()
    return float(((difference @ moments.double().numpy()) * difference).sum())


def moved(matrix: Any) -> Any:
    """Matrices that differ from this one in one code."""
    if isinstance(matrix, LevelMatrix):
        for place in np.ndindex(*matrix.codes.shape):
            for code in (-2, -1, 1, 2):
                codes = matrix.codes.clone()
                codes[place] = code
                yield dataclasses.replace(matrix, codes=codes)
        return
    planes, kinds, _, rows, columns = matrix.codes.shape
    for kind, row, column in np.ndindex(kinds, rows, columns):
        for letter in np.ndindex(*(4,) * planes):
            codes = matrix.codes.clone()
            for plane, phase in enumerate(letter):
                unit = (1, 1j, -1, -1j)[phase]
                codes[plane, kind, :, row, column] = torch.tensor([int(unit.real), int(unit.imag)])
            yield dataclasses.replace(matrix, codes=codes)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_code_alone_could_be_better_and_scales_are_least_squares(scheme: str) -> None:
    weight, moments = material(6, 8)
    quantizer: Any = bitnet_arch.quantizer(scheme)
    found = quantizer.solve(weight, moments, 12)
    least = error(found.values(), weight, moments)
    assert least < 0.8 * error(quantizer.quantize(weight).values(), weight, moments)
    assert min(error(one.values(), weight, moments) for one in moved(found)) > least * (1 - 1e-4)
    root = np.linalg.cholesky(moments.double().numpy())
    if scheme == "levels4":
        units = torch.diag(found.scales)
    else:  # those of U, those of W
        units = torch.stack([found.scales * torch.eye(2)[kind, None, :, None] for kind in range(2)])
    columns = [
        (dataclasses.replace(found, scales=unit).values().double().numpy() @ root).ravel() for unit in units
    ]
    expected, *_ = np.linalg.lstsq(np.stack(columns, 1), (weight.double().numpy() @ root).ravel(), rcond=None)
    np.testing.assert_allclose(expected, 1, rtol=1e-3)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_master_weights_bring_back_what_was_chosen(scheme: str) -> None:
    weight, moments = material(40, 48)
    quantizer: Any = bitnet_arch.quantizer(scheme)
    solved = quantizer.solve(weight, moments, 2)
    for factor in (1.0, 0.95):  # gradients move scales afterwards
        chosen = dataclasses.replace(solved, scales=quantizer.storable(solved.scales * factor))
        master = quantizer.master_weights(chosen, weight)
        found = quantizer.quantize(master)
        assert torch.equal(found.codes, chosen.codes)
        torch.testing.assert_close(found.scales, chosen.scales, rtol=1e-5, atol=0)
        assert torch.equal(quantizer.at_scales(master, chosen.scales).codes, chosen.codes)
        again = quantizer.quantize(quantizer.master_weights(found, master)).scales
        torch.testing.assert_close(again, found.scales, rtol=1e-5, atol=0)


def test_four_levels_far_apart_leave_room_for_latent_weights() -> None:
    """Most latent weights near 0 and few of them large, as in a layer with outliers after its refinement."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.ones(64, 64, dtype=torch.int8)
    codes[:, :2] = 2
    chosen = LevelMatrix(codes, torch.tensor([0.04, 0.75]))
    latent = torch.where(torch.rand(64, 64, generator=generator) < 0.9, 0.0, 1.0)
    found = FourLevels().quantize(FourLevels().master_weights(chosen, latent))
    assert torch.equal(found.codes, codes)
    torch.testing.assert_close(found.scales, chosen.scales)


@pytest.mark.parametrize("num_planes", [1, 2])
def test_a_matrix_without_a_conjugate_part_is_solved(num_planes: int) -> None:
    rows, moments = material(20, 48)
    (re, im), quantizer = rows.chunk(2, 1), PhaseQuantizer(num_planes)
    weight = torch.cat([torch.cat([re, -im], 1), torch.cat([im, re], 1)])  # y = U x alone
    found = quantizer.solve(weight, moments, 4)
    assert not found.parts()[1].any()
    rounded = error(quantizer.quantize(weight).values(), weight, moments)
    assert error(found.values(), weight, moments) < 0.8 * rounded
    chosen = dataclasses.replace(found, scales=quantizer.storable(found.scales))
    master = quantizer.master_weights(chosen, weight)
    assert torch.equal(quantizer.quantize(master).codes[:, 0], chosen.codes[:, 0])


def test_quantized_values_are_no_master_weights() -> None:
    """What a checkpoint of the values would become: the first plane's scales move, by the second's codes."""
    weight, moments = material(40, 48)
    quantizer = PhaseQuantizer(2)
    solved = quantizer.solve(weight, moments, 2)
    found = quantizer.quantize(solved.values())
    assert (found.scales / solved.scales - 1).abs().max() > 1e-3


def test_what_no_weights_quantize_to_is_refused() -> None:
    along = torch.zeros(2, 2, 2, 2, 2, dtype=torch.int8)
    along[:, :, 0] = 1  # every later plane points along the first one
    scales = torch.tensor([1.0, 0.5]).view(2, 1, 1).expand(2, 2, 2)
    with pytest.raises(ValueError, match="no weights quantize to these phases and scales"):
        PhaseQuantizer(2).master_weights(PhaseMatrix(along, scales), torch.ones(4, 4))
    chosen = LevelMatrix(torch.tensor([[1, 1], [1, -1]], dtype=torch.int8), torch.tensor([1.0, 1.1]))
    with pytest.raises(ValueError, match="no weights quantize to levels"):
        FourLevels().master_weights(chosen, torch.ones(2, 2))


def test_four_levels_are_lloyd_max_of_normal_weights() -> None:
    weight = torch.randn(500, 1000, generator=torch.Generator().manual_seed(5))
    found = FourLevels().quantize(weight)
    torch.testing.assert_close(found.scales, torch.tensor([0.4528, 1.5104]), rtol=0.01, atol=0)
    assert (found.values() - weight).square().mean().item() == pytest.approx(0.1175, abs=0.001)
