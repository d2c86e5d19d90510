"""Complex matrices of phases: layout, and products on every instruction set that this processor has.

With scales of 1 and integer inputs whose largest is 127, results are sums of integers, equal to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ternary_kernels as tk
from ternary_kernels import _native
from wf_formats.phases import PhaseMatrix

ISAS: dict[str, str] = tk.info()["instruction_sets"]
SIZES = [(1, 1), (5, 3), (16, 16), (17, 20), (40, 288), (33, 802)]
"""Complex rows and columns: tails of blocks, of steps and of units; more than what is unpacked at a time."""
TOKENS = [1, 2, 3, 4, 5, 9]


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test on one instruction set."""
    if ISAS[request.param] != "available":
        pytest.skip(ISAS[request.param])
    tk.select_isa(request.param)
    yield request.param
    tk.select_isa("auto")


def random_matrix(planes: int, rows: int, cols: int, scales: NDArray[Any] | None = None) -> PhaseMatrix:
    rng = np.random.default_rng(rows + cols)
    phases = rng.integers(0, 4, (planes, 2, rows, cols)).astype(np.uint8)
    return PhaseMatrix(phases, np.ones((planes, 2, 2), np.float32) if scales is None else scales)


def packed(matrix: PhaseMatrix) -> tk.Matrix:
    return tk.pack_phases(matrix.phases, matrix.scales)


def complex_product(matrix: PhaseMatrix, x: NDArray[Any]) -> NDArray[Any]:
    """y = U x + W conj(x) in complex128, out of the phases."""
    half = x.shape[1] // 2
    inputs = x[:, :half] + 1j * x[:, half:].astype(np.float64)
    total = np.zeros((len(x), matrix.phases.shape[2]), np.complex128)
    for phases, scales in zip(matrix.phases, matrix.scales.astype(np.float64), strict=True):
        for kind, operand in enumerate((inputs, inputs.conj())):
            weights = np.array([1, 1j, -1, -1j])[phases[kind]]
            total += operand @ (scales[kind, 0] * weights.real + 1j * scales[kind, 1] * weights.imag).T
    return np.concatenate([total.real, total.imag], axis=1)


@pytest.mark.parametrize("planes", [1, 2])
def test_integers_are_exact(isa: str, planes: int) -> None:
    for rows, cols in SIZES:
        matrix = random_matrix(planes, rows, cols)
        x = np.random.default_rng(1).integers(-127, 128, (max(TOKENS), 2 * cols)).astype(np.float32)
        x[:, cols] = 127
        x[0], x[1] = 127, -127
        expected, made = complex_product(matrix, x), packed(matrix)
        for tokens in TOKENS:
            found = made.linear(x[:tokens], "halves", num_threads=1)
            np.testing.assert_array_equal(
                found, expected[:tokens], err_msg=f"{rows} x {cols}, {tokens} tokens"
            )


@pytest.mark.parametrize("phase", [0, 1, 2, 3])
def test_extreme_sums(isa: str, phase: int) -> None:
    """All inputs at their largest, all weights alike: 16-bit sums of more steps than fit would overflow."""
    matrix = PhaseMatrix(np.full((2, 2, 16, 2048), phase, np.uint8), np.ones((2, 2, 2), np.float32))
    x = np.full((3, 4096), 127, np.float32)
    x[1] = -127
    x[2, 2048:] = -127
    np.testing.assert_array_equal(packed(matrix).linear(x, "halves"), complex_product(matrix, x))


@pytest.mark.parametrize("planes", [1, 2])
def test_results_are_equal_whatever_computes_them(planes: int) -> None:
    """With real scales: on every instruction set, alone or among others, with any number of threads."""
    rng = np.random.default_rng(planes)
    matrix = random_matrix(planes, 330, 90, rng.uniform(0.01, 1, (planes, 2, 2)).astype(np.float32))
    made, x = packed(matrix), rng.normal(size=(11, 180)).astype(np.float32)
    found = {}
    for name, state in ISAS.items():
        if state == "available":
            tk.select_isa(name)
            alone = np.concatenate([made.linear(row[None], "halves", 1) for row in x])
            found[name] = [alone, made.linear(x, "halves", 1), made.linear(x, "halves", 3)]
    tk.select_isa("auto")
    for name, results in found.items():
        for result in results:
            np.testing.assert_array_equal(result, found["scalar"][0], err_msg=name)
    rounded = (
        np.rint(x * (127 / np.abs(x).max(1, keepdims=True)).astype(np.float32))
        * np.abs(x).max(1, keepdims=True)
        / 127
    )
    expected = complex_product(matrix, rounded)
    assert np.abs(found["scalar"][0] - expected).max() < 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(expected, rounded @ matrix.values().T.astype(np.float64), atol=1e-4)


@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize(("rows", "cols"), SIZES)
def test_pack_and_unpack(planes: int, rows: int, cols: int) -> None:
    scales = np.random.default_rng(2).normal(size=(planes, 2, 2)).astype(np.float32)
    matrix = random_matrix(planes, rows, cols, scales)
    made = packed(matrix)
    assert (made.format, made.rows, made.cols, made.group_size) == (f"p{planes}", *matrix.shape, 0)
    data, *others = made.parts()
    memory = np.zeros(data.nbytes + 64, np.uint8)
    at = -memory.ctypes.data % 64
    memory[at : at + data.nbytes] = data.reshape(-1)
    kept = memory[at : at + data.nbytes].reshape(data.shape)
    for read in (made, tk.Matrix.from_parts(kept, *others, *matrix.shape, 0, made.format)):
        phases, found = read.unpack_phases()
        np.testing.assert_array_equal(phases, matrix.phases)
        np.testing.assert_array_equal(found, scales)


def test_worked_example() -> None:
    """The one of FORMATS.md: pair 2 of rows, of a matrix of two planes."""
    phases = np.zeros((2, 2, 3, 8), np.uint8)
    phases[0, 0, 2] = [1, 0, 3, 2, 2, 2, 0, 1]
    phases[1, 1, 2, :4] = 3
    data, scales, _ = tk.pack_phases(phases, np.arange(8, dtype=np.float32).reshape(2, 2, 2)).parts()
    unit = data.reshape(4, 64)
    assert unit[0, 8:12].tolist() == [0x09, 0x08, 0x03, 0x06]
    assert unit[3, 8:12].tolist() == [3, 3, 3, 3]
    assert np.flatnonzero(unit.any(0)).tolist() == [8, 9, 10, 11]
    assert not unit[1:3].any()
    assert scales.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


def test_bits_per_weight() -> None:
    for planes in (1, 2):
        made = packed(random_matrix(planes, 160, 192))
        assert 8 * made.num_bytes / (made.rows * made.cols) == pytest.approx(planes, abs=0.01)


def test_zero_and_nan_inputs(isa: str) -> None:
    made, x = packed(random_matrix(2, 20, 40)), np.zeros((3, 80), np.float32)
    x[1, 50] = np.nan
    found = made.linear(x, "halves")
    assert not found[[0, 2]].any()
    assert np.isnan(found[1]).all()


def test_what_is_refused() -> None:
    phases, scales = np.zeros((1, 2, 4, 8), np.uint8), np.ones((1, 2, 2), np.float32)
    made, x = tk.pack_phases(phases, scales), np.zeros((1, 16), np.float32)
    ternary = tk.pack_ternary(np.zeros((8, 16), np.int8), 1.0)
    for call, message in (
        (lambda: tk.pack_phases(phases + np.uint8(4), scales), "phase 4 is none of 0..3"),
        (lambda: tk.pack_phases(phases + np.int64(257), scales), "phases of int64 are no whole numbers"),
        (lambda: tk.pack_phases(phases + 1.5, scales), "phases of float64 are no whole numbers"),
        (lambda: tk.pack_phases(phases, scales * np.nan), "scale 0 of the planes is not finite"),
        (lambda: tk.pack_phases(np.zeros((3, 2, 4, 8), np.uint8), scales), "phases are .1 or 2 planes"),
        (lambda: tk.pack_phases(np.zeros((2, 2, 4, 8), np.uint8), scales), "of the planes of the phases"),
        (lambda: made.linear(x), "format p1 takes inputs as halves, and no others"),
        (lambda: ternary.linear(x, "halves"), "takes no halves"),
        (lambda: made.unpack(), "has phases, not codes: unpack_phases"),
        (lambda: ternary.unpack_phases(), "has codes, not phases: unpack gives"),
        (
            lambda: _native.pack(np.zeros((8, 16), np.int8), np.ones(8, np.float32), "p2"),
            "pack_phases takes them",
        ),
        (lambda: _native.packed_shape(7, 16, 0, "p1"), "has halves of rows and of columns and no groups"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
