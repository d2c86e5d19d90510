"""The transform and the phases, beside complex arithmetic of numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fairy2.phases import phases, quantize_parts
from fairy2.quantizer import make
from fairy2.widely_linear import complex_curvature, complex_rows, from_parts, to_parts

UNITS = np.array([1, 1j, -1, -1j])


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def complex_pair(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """U and W of the definition."""
    (r11, r12), (r21, r22) = (np.hsplit(rows, 2) for rows in np.vsplit(matrix, 2))
    return ((r11 + r22) + 1j * (r21 - r12)) / 2, ((r11 - r22) + 1j * (r12 + r21)) / 2


def real_matrix(u: np.ndarray, w: np.ndarray) -> np.ndarray:
    """What x -> u x + w conj(x) does to the unit vectors of both halves."""
    ones = np.eye(u.shape[1])
    columns = np.hstack([u @ ones + w @ ones, u @ (1j * ones) + w @ (1j * ones).conj()])
    return np.vstack([columns.real, columns.imag])


def test_the_transform_is_the_map_and_loses_nothing() -> None:
    matrix = normal(6, 10)
    parts = to_parts(matrix)
    torch.testing.assert_close(from_parts(parts), matrix, rtol=0, atol=1e-15)
    u, w = (part[0].numpy() + 1j * part[1].numpy() for part in parts)
    x = normal(10, seed=2).numpy()
    y = u @ (x[:5] + 1j * x[5:]) + w @ (x[:5] - 1j * x[5:])
    np.testing.assert_allclose(np.concatenate([y.real, y.imag]), matrix.numpy() @ x, rtol=0, atol=1e-14)
    np.testing.assert_allclose(real_matrix(u, w), matrix.numpy(), rtol=0, atol=1e-15)


@pytest.mark.parametrize(("shape", "message"), [((6, 5), "6 x 5"), ((3, 4), "3 x 4")])
def test_odd_sizes_are_refused(shape: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"{message} does not divide into halves"):
        to_parts(torch.ones(shape))


def test_phases_are_those_of_the_angle_at_borders_too() -> None:
    numbers = (normal(2, 400)[0] + 1j * normal(2, 400)[1]).numpy()
    borders = np.array([x + 1j * y for x in (-2.0, 0.0, 2.0) for y in (-2.0, 0.0, 2.0)])
    numbers = np.concatenate([numbers, borders])
    angles = np.angle(numbers + 0.0)  # makes -0.0 +0.0
    expected = UNITS[np.floor(2 * angles / np.pi + 0.5).astype(int) % 4]
    parts = torch.from_numpy(np.stack([numbers.real, numbers.imag])[:, None])
    for signed in (parts, torch.where(parts == 0, -0.0, parts)):
        found = phases(signed)[:, 0].numpy()
        np.testing.assert_array_equal(found[0] + 1j * found[1], expected)


@pytest.mark.parametrize("num_planes", [1, 2])
def test_a_matrix_is_what_the_definition_says(num_planes: int) -> None:
    matrix = normal(40, 36).float()
    rounded = []
    for rest in complex_pair(matrix.double().numpy()):
        total = np.zeros_like(rest)
        for _ in range(num_planes):
            codes = UNITS[np.floor(2 * np.angle(rest) / np.pi + 0.5).astype(int) % 4]
            real = codes.imag == 0
            plane = np.where(real, codes.real * np.abs(rest.real[real]).mean(), 0) + 1j * np.where(
                real, 0, codes.imag * np.abs(rest.imag[~real]).mean()
            )
            total, rest = total + plane, rest - plane
        rounded.append(total)
    found = make(f"fairy2-w{num_planes}").quantize(matrix)
    np.testing.assert_allclose(found.values().numpy(), real_matrix(*rounded), rtol=0, atol=1e-6)
    assert set(found.codes.unique().tolist()) == {-1, 0, 1}
    assert torch.equal(found.codes.abs().sum(2), torch.ones_like(found.codes[:, :, 0]))


def test_one_plane_errs_as_signs_and_two_as_two_planes_of_signs() -> None:
    weights = normal(800, 1000).float()
    signs = weights.abs().mean() * weights.sign()
    rest = weights - signs
    twice = signs + rest.abs().mean() * rest.sign()
    for num_planes, real in ((1, signs), (2, twice)):
        found = quantize_parts(to_parts(weights), num_planes).values()
        error, real_error = ((one - weights).square().mean().item() for one in (found, real))
        assert error == pytest.approx(real_error, rel=0.01)
    assert real_error == pytest.approx(0.130, abs=0.002)
    assert (weights - signs).square().mean().item() == pytest.approx(1 - 2 / np.pi, abs=0.002)


def test_complex_least_squares_are_those_of_the_real_matrix() -> None:
    error, tokens = normal(6, 8).float(), normal(50, 8, seed=3).float()
    rows, curvature = complex_rows(error), complex_curvature(tokens.t() @ tokens)
    found = ((rows @ curvature) * rows.conj()).sum()
    torch.testing.assert_close(found.real, (tokens @ error.t()).square().sum())
    torch.testing.assert_close(curvature, curvature.mH)


def test_the_product_takes_additions_alone() -> None:
    """Sums and differences of inputs, which the scales multiply once per output: what a kernel would do."""
    matrix, x = make("fairy2-w2").quantize(normal(12, 16).float()), normal(16, seed=2).numpy()
    inputs = x[:8] + 1j * x[8:]
    y = np.zeros(6, complex)
    for codes, scales in zip(matrix.codes.numpy(), matrix.scales.double().numpy(), strict=True):
        for of_kind, its_scales, its_inputs in zip(codes, scales, (inputs, inputs.conj()), strict=True):
            for signs, scale, unit in zip(of_kind, its_scales, (1, 1j), strict=True):
                sums = [its_inputs[row == 1].sum() - its_inputs[row == -1].sum() for row in signs]
                y += unit * scale * np.array(sums)
    expected = matrix.values().double().numpy() @ x
    np.testing.assert_allclose(np.concatenate([y.real, y.imag]), expected, rtol=1e-5, atol=1e-6)
