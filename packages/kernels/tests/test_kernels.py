"""Packed matrices and their products, on every instruction set that this processor has.

With scales of 1 and integer inputs whose largest is 127, the quantized inputs are the inputs, and the results
are the integer sums (as float32), compared to the bit with numpy's int64.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import ternary_kernels as tk
from ternary_kernels import _native
from wf_formats import kernel_sizes

RANGES = {"t2": (-1, 1), "t5": (-1, 1), "q4": (-8, 7), "q6": (-32, 31), "q8": (-128, 127)}
FORMATS = list(RANGES)
ISAS: dict[str, str] = tk.info()["instruction_sets"]
ROWS = [1, 5, 16, 17, 70]
SHAPES = [(5, 0), (64, 0), (96, 0), (200, 0), (576, 0), (2560, 0)]
GROUPED_SHAPES = [(96, 32), (192, 48), (576, 64), (2560, 64), (640, 128), (2560, 2560)]
CASES = [
    (format, cols, group)
    for format in FORMATS
    for cols, group in SHAPES + GROUPED_SHAPES
    if group % (32 if format == "t5" else 16) == 0
]
TOKENS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 18, 25, 30]


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test on one instruction set."""
    if ISAS[request.param] != "available":
        pytest.skip(ISAS[request.param])
    tk.select_isa(request.param)
    yield request.param
    tk.select_isa("auto")


@pytest.fixture
def scalar_after() -> Iterator[None]:
    yield
    tk.select_isa("auto")


def pack(codes: NDArray[Any], scales: NDArray[Any] | float, format: str) -> tk.Matrix:
    return _native.pack(np.ascontiguousarray(codes, np.int8), np.asarray(scales, np.float32), format)


def random_codes(rng: np.random.Generator, format: str, *shape: int) -> NDArray[np.int8]:
    low, high = RANGES[format]
    return rng.integers(low, high + 1, shape).astype(np.int8)


def unit_scales(rows: int, cols: int, group: int) -> NDArray[np.float32]:
    return np.ones((rows, cols // group) if group else rows, np.float32)


def integer_inputs(rng: np.random.Generator, tokens: int, cols: int) -> NDArray[np.float32]:
    """Integers whose largest magnitude is 127: they are their own codes. Some rows hold nothing but +-127."""
    x = rng.integers(-127, 128, (tokens, cols))
    x[:, rng.integers(cols)] = 127
    x[::5] = 127
    x[1::5] = -127
    x[2::5] = np.where(x[2::5] < 0, -127, 127)
    return x.astype(np.float32)


def exact(codes: NDArray[np.int8], x: NDArray[np.float32], group: int) -> NDArray[np.float32]:
    """The integer sums of each group, added in order in float32."""
    total = np.zeros((len(x), len(codes)), np.float32)
    step = group or codes.shape[1]
    for first in range(0, codes.shape[1], step):
        part = slice(first, first + step)
        # float64 holds these integers; its product is faster than int64's
        sums = x[:, part].astype(np.float64) @ codes[:, part].T.astype(np.float64)
        total += sums.astype(np.int64).astype(np.float32)
    return total


@pytest.mark.parametrize(("format", "cols", "group"), CASES)
def test_integers_are_exact(isa: str, format: str, cols: int, group: int) -> None:
    rng = np.random.default_rng(cols + group)
    x = integer_inputs(rng, max(TOKENS), cols)
    for rows in ROWS:
        codes = random_codes(rng, format, rows, cols)
        matrix = pack(codes, unit_scales(rows, cols, group), format)
        expected = exact(codes, x, group)
        for tokens in TOKENS if rows == max(ROWS) else (1, 2, 30):
            np.testing.assert_array_equal(
                matrix.linear(x[:tokens], num_threads=1),
                expected[:tokens],
                err_msg=f"{rows} rows, {tokens} tokens",
            )


@pytest.mark.parametrize("group", [0, 32, 512])
@pytest.mark.parametrize("format", FORMATS)
def test_extreme_codes(isa: str, format: str, group: int) -> None:
    """The largest products, of either sign: 16-bit sums of two of them overflow for q8."""
    rows, cols, (low, high) = 20, 1536, RANGES[format]
    x = integer_inputs(np.random.default_rng(0), 12, cols)
    for codes in (
        np.full((rows, cols), low, np.int8),
        np.full((rows, cols), high, np.int8),
        np.where(np.arange(cols) % 2, low, high) * np.ones((rows, 1)),
        np.where(x[2] < 0, low, high) * np.ones((rows, 1)),
        np.zeros((rows, cols), np.int8),
    ):
        matrix = pack(codes, unit_scales(rows, cols, group), format)
        expected = exact(codes.astype(np.int8), x, group)
        for first, last in ((0, 1), (1, 2), (2, 3), (0, 2), (1, 3), (0, 3), (0, 12)):
            found = matrix.linear(x[first:last], num_threads=1)
            np.testing.assert_array_equal(found, expected[first:last], err_msg=f"tokens {first} to {last}")


@pytest.mark.parametrize("format", FORMATS)
def test_equal_to_scalar_with_real_scales(scalar_after: None, format: str) -> None:
    """The float operations are the same in the same order, so whole results are equal to the bit."""
    rng = np.random.default_rng(3)
    for cols, group in ((200, 0), (577, 0), (576, 64), (640, 128)):
        codes = random_codes(rng, format, 70, cols)
        scales = rng.normal(size=unit_scales(70, cols, group).shape).astype(np.float32)
        by_groups = bool(group) and format in WIDE_FORMATS
        offsets = rng.normal(size=scales.shape).astype(np.float32) if by_groups else None
        matrix = _native.pack(codes, scales, format, 0, offsets)
        x = rng.normal(size=(13, cols)).astype(np.float32)
        results = {}
        for name, state in ISAS.items():
            if state == "available":
                tk.select_isa(name)
                precisions = ("int8", "wide", "groups") if by_groups else ("int8", "wide")
                results[name] = [matrix.linear(x, precision) for precision in precisions]
        for name, found in results.items():
            np.testing.assert_array_equal(found, results["scalar"], err_msg=name)


@pytest.mark.parametrize("format", FORMATS)
def test_threads(isa: str, format: str) -> None:
    rng = np.random.default_rng(4)
    codes = random_codes(rng, format, 1000, 200)
    x = integer_inputs(rng, 30, 200)
    matrix, expected = pack(codes, np.ones(1000), format), exact(codes, x, 0)
    for threads in (1, 2, 4):
        for tokens in (1, 13, 30):
            np.testing.assert_array_equal(matrix.linear(x[:tokens], num_threads=threads), expected[:tokens])


@pytest.mark.parametrize("precision", ["int8", "wide"])
@pytest.mark.parametrize(("format", "group"), [*itertools.product(FORMATS, (0, 64)), ("q6", 16)])
def test_a_token_does_not_depend_on_others(isa: str, format: str, group: int, precision: str) -> None:
    rng = np.random.default_rng(5)
    rows, cols = 150, 576
    scales = rng.normal(size=unit_scales(rows, cols, group).shape)
    matrix = pack(random_codes(rng, format, rows, cols), scales, format)
    x = rng.normal(size=(30, cols)).astype(np.float32)
    alone = np.concatenate([matrix.linear(row[None], precision, num_threads=1) for row in x])
    for tokens in TOKENS:
        first = int(rng.integers(0, 31 - tokens))
        part = slice(first, first + tokens)
        np.testing.assert_array_equal(matrix.linear(x[part], precision, num_threads=1), alone[part])
    order = rng.permutation(30)
    np.testing.assert_array_equal(matrix.linear(x[order], precision, num_threads=4), alone[order])


@pytest.mark.parametrize("format", FORMATS)
def test_errors_of_both_precisions(isa: str, format: str) -> None:
    """Inputs are off by at most half a step of the quantizer: 1/127 of the largest, or 1/32512."""
    rng = np.random.default_rng(6)
    rows, cols, group = 40, 576, 64
    matrix = pack(random_codes(rng, format, rows, cols), rng.normal(size=(rows, cols // group)), format)
    codes, scales = matrix.unpack()
    weights = codes.astype(np.float64) * np.repeat(scales.astype(np.float64), group, axis=1)
    x = rng.normal(size=(9, cols)).astype(np.float32)
    expected = x.astype(np.float64) @ weights.T
    for precision, steps in (("int8", 127), ("wide", 127 * 256)):
        half_step = np.abs(x).max(axis=1, keepdims=True) / steps / 2
        rounding = 1e-6 * np.abs(x).astype(np.float64) @ np.abs(weights).T
        bound = half_step * np.abs(weights).sum(axis=1) + rounding
        assert (np.abs(matrix.linear(x, precision) - expected) <= bound).all()


WIDE_FORMATS = ["q4", "q6", "q8"]
OFFSET_CASES = [("q4", 576, 32), ("q4", 640, 128), ("q6", 192, 16), ("q8", 96, 32)]


@pytest.mark.parametrize(("format", "cols", "group"), OFFSET_CASES)
def test_offsets_are_what_was_packed(format: str, cols: int, group: int) -> None:
    """Scales and minimums as Q4_1 has them, float16 both, come back to the bit."""
    rng = np.random.default_rng(8)
    codes, shape = random_codes(rng, format, 21, cols), (21, cols // group)
    scales = rng.uniform(0.5, 1, shape).astype(np.float16).astype(np.float32)
    minimums = rng.normal(scale=8, size=shape).astype(np.float16).astype(np.float32)
    offsets = minimums - RANGES[format][0] * scales
    matrix = _native.pack(codes, scales, format, 0, offsets)
    np.testing.assert_array_equal(matrix.unpack()[1], scales)
    np.testing.assert_array_equal(matrix.offsets(), offsets)
    again = tk.Matrix.from_parts(*matrix.parts(), 21, cols, group, format, has_minimums=True)
    x = rng.normal(size=(3, cols)).astype(np.float32)
    np.testing.assert_array_equal(again.linear(x, "groups"), matrix.linear(x, "groups"))
    assert pack(codes, scales, format).offsets() is None


def test_offsets_that_cannot_be_packed() -> None:
    codes, scales = np.zeros((2, 64), np.int8), np.ones((2, 2), np.float32)
    with pytest.raises(ValueError, match=r"offsets are 2 x 1; they go with scales \[rows, groups\]"):
        _native.pack(codes, scales, "q4", 0, np.ones((2, 1), np.float32))
    with pytest.raises(ValueError, match="offset of row 1, group 0 is not finite"):
        _native.pack(codes, scales, "q4", 0, np.array([[1, 1], [np.nan, 1]], np.float32))
    with pytest.raises(ValueError, match=r"minimums with format t2 .*: only groups of q4, q6 and q8"):
        _native.pack(codes, scales, "t2", 0, np.ones((2, 2), np.float32))


@pytest.mark.parametrize(("format", "cols", "group"), OFFSET_CASES)
def test_integers_with_offsets_are_exact(isa: str, format: str, cols: int, group: int) -> None:
    """Scales, offsets and factors of whole inputs are powers of two: nothing is rounded."""
    rng = np.random.default_rng(9)
    x = rng.integers(-127, 128, (13, cols // group, group))
    x[:, :, 3] = 127
    factors = 2.0 ** rng.integers(-2, 3, (13, cols // group, 1))
    codes = random_codes(rng, format, 37, cols)
    scales = 2.0 ** rng.integers(-2, 3, (37, cols // group))
    offsets = 2.0 ** rng.integers(-2, 3, (37, cols // group))
    weights = codes * np.repeat(scales, group, 1) + np.repeat(offsets, group, 1)
    inputs = (x * factors).reshape(13, cols)
    matrix = _native.pack(codes, scales.astype(np.float32), format, 0, offsets.astype(np.float32))
    for tokens in (1, 2, 3, 6, 13):
        np.testing.assert_array_equal(
            matrix.linear(inputs[:tokens].astype(np.float32), "groups", num_threads=1),
            inputs[:tokens] @ weights.T,
        )


@pytest.mark.parametrize("has_offsets", [False, True])
@pytest.mark.parametrize("format", WIDE_FORMATS)
def test_inputs_by_groups_err_by_half_a_step_of_their_group(isa: str, format: str, has_offsets: bool) -> None:
    rng = np.random.default_rng(10)
    rows, cols, group = 40, 576, 32
    codes, shape = random_codes(rng, format, rows, cols), (rows, cols // group)
    offsets = rng.normal(scale=4, size=shape).astype(np.float32) if has_offsets else None
    matrix = _native.pack(codes, rng.normal(size=shape).astype(np.float32), format, 0, offsets)
    kept = np.zeros(shape) if offsets is None else matrix.offsets()
    weights = codes * np.repeat(matrix.unpack()[1], group, 1).astype(np.float64) + np.repeat(kept, group, 1)
    x = rng.normal(size=(9, cols)).astype(np.float32) * np.repeat(
        10.0 ** rng.uniform(-3, 3, (9, 18)), group, 1
    )
    x = x.astype(np.float32)
    half_step = np.repeat(np.abs(x.reshape(9, -1, group)).max(axis=2), group, axis=1) / 127 / 2
    bound = half_step @ np.abs(weights).T + 1e-5 * np.abs(x).astype(np.float64) @ np.abs(weights).T
    found = matrix.linear(x, "groups")
    assert (np.abs(found - x.astype(np.float64) @ weights.T) <= bound).all()
    alone = np.concatenate([matrix.linear(row[None], "groups", num_threads=1) for row in x])
    np.testing.assert_array_equal(found, alone)
    broken = x.copy()
    broken[3, 70] = np.nan
    found = matrix.linear(broken, "groups")
    assert np.isnan(found[3]).all()
    np.testing.assert_array_equal(np.delete(found, 3, 0), np.delete(alone, 3, 0))


def test_zero_inputs(isa: str) -> None:
    matrix = pack(np.ones((17, 64)), np.ones(17), "t2")
    assert not matrix.linear(np.zeros((3, 64), np.float32)).any()
    assert matrix.linear(np.zeros((0, 64), np.float32)).shape == (0, 17)


@st.composite
def products(draw: st.DrawFn) -> tuple[str, int, int, int, int, int]:
    format = draw(st.sampled_from(FORMATS))
    group = draw(st.sampled_from([0, 32, 64, 96, 128, 160]))
    cols = group * draw(st.integers(1, 9)) if group else draw(st.integers(1, 700))
    return (
        format,
        draw(st.integers(1, 100)),
        cols,
        group,
        draw(st.integers(1, 30)),
        draw(st.integers(0, 2**16)),
    )


@settings(max_examples=60, deadline=None)
@given(products())
def test_any_shape(product: tuple[str, int, int, int, int, int]) -> None:
    format, rows, cols, group, tokens, seed = product
    rng = np.random.default_rng(seed)
    codes, x = random_codes(rng, format, rows, cols), integer_inputs(rng, tokens, cols)
    matrix = pack(codes, unit_scales(rows, cols, group), format)
    np.testing.assert_array_equal(matrix.unpack()[0], codes)
    expected = exact(codes, x, group)
    try:
        for name, state in ISAS.items():
            if state == "available":
                tk.select_isa(name)
                np.testing.assert_array_equal(matrix.linear(x), expected, err_msg=name)
    finally:
        tk.select_isa("auto")


@pytest.mark.parametrize(("format", "cols", "group"), CASES)
def test_pack_and_unpack(format: str, cols: int, group: int) -> None:
    rng = np.random.default_rng(7)
    for rows in ROWS:
        codes = random_codes(rng, format, rows, cols)
        given_scales = rng.normal(size=unit_scales(rows, cols, group).shape).astype(np.float32)
        matrix = pack(codes, given_scales, format)
        assert (matrix.rows, matrix.cols, matrix.format, matrix.group_size) == (rows, cols, format, group)
        found, scales = matrix.unpack()
        np.testing.assert_array_equal(found, codes)
        if group:
            np.testing.assert_allclose(scales, given_scales, rtol=2.0**-11)
            again = pack(found, scales, format).unpack()[1]
            np.testing.assert_array_equal(again, scales)  # what was packed once is kept as it is
        else:
            np.testing.assert_array_equal(scales, given_scales)


@pytest.mark.parametrize(
    ("scales", "kept"),
    [
        ([1e-30, 2e-30], [1e-30, 2e-30]),  # far below float16: the row's power of two carries it
        ([3e30, -1e30], [3e30, -1e30]),
        ([0.0, 0.0], [0.0, 0.0]),
        ([1.0, 2.0**-20], [1.0, 2.0**-20]),  # subnormal float16
        ([1.0, 2.0**-30], [1.0, 0.0]),  # below it
    ],
)
def test_group_scales_of_any_size(scales: list[float], kept: list[float]) -> None:
    matrix = pack(np.ones((1, 64)), np.array([scales]), "t2")
    np.testing.assert_allclose(matrix.unpack()[1], [kept], rtol=2.0**-11)


def test_bits_per_weight() -> None:
    codes = np.zeros((1600, 1920), np.int8)
    bits = {name: 8 * pack(codes, np.ones(1600), name).num_bytes / codes.size for name in FORMATS}
    row_scale = 32 / 1920
    expected = {"t2": 2, "t5": 5 / 3, "q4": 4, "q6": 6, "q8": 8}
    assert bits == pytest.approx({name: value + row_scale for name, value in expected.items()})


def test_pack_ternary_and_pack_groups() -> None:
    codes = np.array([[-1, 0, 1, 1] * 16] * 3, np.int8)
    assert {tk.pack_ternary(codes, 0.5).format} <= {"t2", "t5"}
    np.testing.assert_array_equal(tk.pack_ternary(codes, 0.5, "t2").unpack()[1], [0.5, 0.5, 0.5])
    by_bits = [tk.pack_groups(codes, np.ones((3, 4), np.float32), bits).format for bits in (4, 6, 8)]
    assert by_bits == ["q4", "q6", "q8"]
    with pytest.raises(ValueError, match="bits is 5; known: 4, 6, 8"):
        tk.pack_groups(codes, np.ones((3, 4), np.float32), 5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("codes", "scales", "format", "message"),
    [
        (np.zeros((2, 64)), np.ones(2), "t3", "unknown format 't3'; known: t2, t5, q4, q6, q8"),
        (np.zeros((0, 64)), np.ones(0), "t2", "needs rows and columns, got 0 x 64"),
        (np.zeros((2, 0)), np.ones(2), "t2", "needs rows and columns, got 2 x 0"),
        (np.zeros((2, 64)), np.ones(3), "t2", "with 2 rows"),
        (np.zeros((2, 64)), np.ones((2, 4, 1)), "t2", "must be a scalar"),
        (np.zeros((2, 60)), np.ones((2, 7)), "t2", "rows of 60 inputs do not divide into 7 groups"),
        (np.zeros((2, 48)), np.ones((2, 2)), "q4", "groups of 24 inputs: format q4 needs a multiple of 16"),
        (np.zeros((2, 96)), np.ones((2, 2)), "t5", "groups of 48 inputs: format t5 needs a multiple of 32"),
        (np.zeros((2, 64)), np.array([1, np.nan]), "t2", "scale of row 1, group 0 is not finite"),
        (np.zeros((2, 64)), np.array([[1, 1], [1, np.inf]]), "t2", "scale of row 1, group 1 is not finite"),
    ],
)
def test_what_cannot_be_packed(codes: NDArray[Any], scales: NDArray[Any], format: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack(codes, scales, format)


@pytest.mark.parametrize("format", ["t2", "t5", "q4", "q6"])
def test_codes_out_of_range_are_named(format: str) -> None:
    low, high = RANGES[format]
    for bad in (low - 1, high + 1, -128, 127):
        codes = np.zeros((20, 100), np.int8)
        codes[17, 99] = bad
        message = f"code {bad} in row 17, column 99 is outside {low}..{high} of format {format}"
        with pytest.raises(ValueError, match=message):
            pack(codes, np.ones(20), format)


def test_what_cannot_be_multiplied() -> None:
    matrix = pack(np.zeros((2, 64)), np.ones(2), "t2")
    with pytest.raises(ValueError, match="x has 63 inputs, the matrix 64"):
        matrix.linear(np.zeros((1, 63), np.float32))
    with pytest.raises(ValueError, match="precision 'float' is none of int8, wide, groups"):
        matrix.linear(np.zeros((1, 64), np.float32), "float")
    with pytest.raises(ValueError, match=r"num_threads must be 0 .* or more, got -1"):
        matrix.linear(np.zeros((1, 64), np.float32), num_threads=-1)
    with pytest.raises(TypeError):
        matrix.linear(np.zeros(64, np.float32))


def test_choice_of_instruction_set(scalar_after: None) -> None:
    with pytest.raises(ValueError, match="unknown instruction set 'mmx'; known: auto, scalar"):
        tk.select_isa("mmx")
    for name, state in ISAS.items():
        if state == "available":
            tk.select_isa(name)
            assert tk.info()["isa"] == name
        else:
            with pytest.raises(ValueError, match=f"'{name}' cannot run here: the processor lacks"):
                tk.select_isa(name)
    tk.select_isa("auto")
    assert tk.info()["isa"] == [name for name, state in ISAS.items() if state == "available"][-1]


class TestWorkedExamples:
    """The bytes of FORMATS.md."""

    @staticmethod
    def block(codes: list[int], format: str, group: int = 0) -> NDArray[np.uint8]:
        """Row 2 of 16 holds `codes`, the others zeros."""
        matrix = np.zeros((16, len(codes)), np.int8)
        matrix[2] = codes
        return pack(matrix, unit_scales(16, len(codes), group), format).parts()[0][0]  # type: ignore[attr-defined]

    def test_t2(self) -> None:
        data = self.block([1, 0, -1, 1, -1, -1, 0, 1, 0, 0, 0, 0, 1, 1, 1, -1], "t2")
        assert len(data) == 64
        assert data[8:12].tolist() == [0x92, 0x91, 0x94, 0x1A]
        assert set(data[:8]) | set(data[12:]) == {0x55}

    def test_t5(self) -> None:
        codes = np.zeros(96, int)
        codes[[0, 32, 64]] = 1, 0, -1  # one code of input 0, in planes 0, 1, 2
        codes[[1, 33, 65]] = 1, 1, 1
        codes[[4, 36, 68]] = -1, 0, 1
        data = self.block(codes.tolist(), "t5")
        assert len(data) == 320
        # codes 5 (2 + 3 + 0), 26 (2 + 6 + 18), 21 (0 + 3 + 18); 13 = 0xd where all is zero
        assert data[8:10].tolist() == [0x55, 0xDA]
        assert data[256 + 1] == 0b00000010  # bit 4 of rows 2 and 3, step 0: only the 26
        assert data[256 + 8 + 1] == 0b00000001  # step 1: the 21
        assert set(data[:8]) | set(data[10:256]) == {0xDD}

    def test_q4(self) -> None:
        data = self.block([-8, 0, 7, 1, 2, -1, 0, 5], "q4")
        assert len(data) == 64
        assert data[8:12].tolist() == [0xA0, 0x78, 0x8F, 0xD9]
        assert set(data[:8]) | set(data[12:]) == {0x88}

    def test_q6(self) -> None:
        codes = np.zeros(16, int)
        codes[[0, 4, 8, 12]] = -32, 31, 5, -1
        data = self.block(codes.tolist(), "q6")
        assert len(data) == 192
        # stored 0, 63, 37, 31: low halves 0, 15 and 5, 15; high halves 0, 3, 2, 1
        assert (data[8], data[64 + 8], data[128 + 8]) == (0xF0, 0xF5, 0b01_10_11_00)
        assert data[128 + 9] == 0b10_10_10_10

    def test_q8(self) -> None:
        data = self.block([-128, 0, 127, 1], "q8")
        assert len(data) == 64
        assert data[8:12].tolist() == [0, 128, 255, 129]

    def test_scales(self) -> None:
        scales = np.zeros((16, 3), np.float32)
        scales[2] = 0.75, -3.0, 2.5
        _, row_scales, group_scales = pack(np.zeros((16, 96)), scales, "t2").parts()  # type: ignore[attr-defined]
        assert row_scales[2] == 2.0  # the power of two below the largest
        assert group_scales[0, :, 2].tolist() == [0x3600, 0xBE00, 0x3D00]  # 0.375, -1.5, 1.25


def test_small_matrices_lie_apart_and_outlive_each_other() -> None:
    rng = np.random.default_rng(0)
    codes = [rng.integers(-1, 2, (rows, 64)).astype(np.int8) for rows in (16, 17, 48, 5)]
    matrices = [tk.pack_ternary(some, np.float32(1)) for some in codes]
    places = sorted(
        (array.__array_interface__["data"][0], array.nbytes)
        for matrix in matrices
        for array in matrix.parts()[:2]
    )
    assert all(begin % 64 == 0 for begin, _ in places)
    assert all(begin + size <= after for (begin, size), (after, _) in itertools.pairwise(places))
    last = matrices.pop()
    del matrices
    others = [tk.pack_ternary(-codes[0], np.float32(1)) for _ in range(8)]
    np.testing.assert_array_equal(last.unpack()[0], codes[-1])
    np.testing.assert_array_equal(others[0].unpack()[0], -codes[0])


@pytest.mark.parametrize("format", ["t2", "t5", "q4", "q6", "q8"])
def test_sums_of_as_many_inputs_as_are_taken_do_not_overflow(isa: str, format: str) -> None:
    """One or two rows with AVX-512 multiply weights of 2 and 4 bits in the upper half of their bytes."""
    most = (1 << 17) - 1
    largest = {"t2": 1, "t5": 1, "q4": 7, "q6": 31, "q8": 127}[format]
    matrix = _native.pack(np.full((1, most), largest, np.int8), np.ones(1, np.float32), format)
    for x in (127.0, -127.0):
        for rows in (1, 2, 3):
            found = matrix.linear(np.full((rows, most), x, np.float32), num_threads=1)
            np.testing.assert_array_equal(found, np.float32(largest * x * most))


def test_sizes_that_others_know_are_the_kernels() -> None:
    assert kernel_sizes.PAGE_TOKENS == tk.PAGE_TOKENS
    _native.packed_shape(2, kernel_sizes.SUMMED_INPUTS, 0, "t2")
    with pytest.raises(ValueError, match=f"integer sums hold {kernel_sizes.SUMMED_INPUTS};"):
        _native.packed_shape(2, kernel_sizes.SUMMED_INPUTS + 1, 0, "t2")


def test_more_inputs_than_a_sum_holds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"131072 inputs under one scale: .* hold 131071; give scales for g"):
        tk.pack_ternary(np.zeros((1, 1 << 17), np.int8), 1.0)
    halves = tk.pack_ternary(np.zeros((1, 1 << 17), np.int8), np.ones((1, 2), np.float32))
    assert halves.group_size == 1 << 16
