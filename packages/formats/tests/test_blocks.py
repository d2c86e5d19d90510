"""Block encoders against gguf-py's decoders and ours, hand-made bytes, and the rounding that fp16 allows."""

import gguf
import numpy as np
import pytest

from wf_formats.errors import FormatError
from wf_formats.gguf import TensorType
from wf_formats.gguf.blocks import FP16_RELATIVE_ERROR, encode, to_fp16
from wf_formats.gguf.blocks import values as decode_blocks
from wf_formats.gguf.codecs import EXPORT_TYPES

TYPES_IN_GGUF_PY = [TensorType.TQ1_0, TensorType.TQ2_0, TensorType.Q4_0, TensorType.F16, TensorType.Q8_0]


def random_codes(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1, 2, (rows, columns)).astype(np.int8)


def decode(data: np.ndarray, num_columns: int, kind: TensorType) -> np.ndarray:
    shape = (data.shape[0], num_columns)
    return decode_blocks(data.reshape(-1), kind, shape)


@pytest.mark.parametrize("kind", TYPES_IN_GGUF_PY)
def test_gguf_py_decodes_our_blocks(kind):
    codes = random_codes(5, 512)
    data = encode(codes, np.float32(1), kind)
    quantized = gguf.GGMLQuantizationType(kind)
    assert data.shape == (5, kind.row_bytes(512))
    np.testing.assert_array_equal(gguf.quants.dequantize(data, quantized), codes)


def test_q2_0_bytes_by_hand():
    """fp16 scale, then four codes a byte, lowest bits first; -1, 0, +1 are the levels 0, 1, 2."""
    codes = np.zeros((1, 64), np.int8)
    codes[0, :4] = [-1, 0, 1, 1]  # levels 0, 1, 2, 2 -> 0b10_10_01_00
    codes[0, 63] = -1  # level 0 in the top bits of the last byte
    data = encode(codes, np.float32(0.5), TensorType.Q2_0)[0]
    assert data[:2].tobytes() == np.float16(0.5).tobytes()
    assert data[2] == 0b10100100
    assert set(data[3:17]) == {0b01010101}
    assert data[17] == 0b00010101


def test_q4_0_of_gguf_py_would_lose_a_sign():
    """Why there is an encoder of our own."""
    codes = np.tile(np.array([1, -1], np.float32), 16)[None]
    kind = gguf.GGMLQuantizationType.Q4_0
    theirs = gguf.quants.dequantize(gguf.quants.quantize(codes, kind), kind)
    assert not np.array_equal(theirs, codes)


@pytest.mark.parametrize("kind", [kind for kind, export in EXPORT_TYPES.items() if not export.has_offsets])
@pytest.mark.parametrize("scale", [1.0, 0.0371, 3e-4])
def test_round_trip_keeps_codes_and_rounds_scales_to_fp16(kind, scale):
    codes = random_codes(3, 768)
    codes[0, :256] = 0
    values = decode_blocks(encode(codes, np.float32(scale), kind).reshape(-1), kind, codes.shape)
    np.testing.assert_array_equal(np.sign(values), codes)
    np.testing.assert_allclose(values, codes * scale, rtol=FP16_RELATIVE_ERROR)


@pytest.mark.parametrize("kind", [TensorType.Q2_0, TensorType.Q4_0, TensorType.F16, TensorType.Q8_0])
@pytest.mark.parametrize("group", [64, 128])
def test_every_group_gets_its_scale(kind, group):
    codes = random_codes(4, 384)
    scales = np.random.default_rng(1).uniform(0.01, 1, (4, 384 // group)).astype(np.float32)
    if kind is TensorType.F16:
        scales = np.repeat(scales, group, axis=1)
    values = decode(encode(codes, scales, kind), 384, kind)
    expected = codes * np.repeat(scales, 384 // scales.shape[1], axis=1)
    np.testing.assert_allclose(values, expected, rtol=FP16_RELATIVE_ERROR)


@pytest.mark.parametrize(("kind", "columns"), [("tq2_0", 576), ("q2_0", 96), ("q4_0", 40)])
def test_rows_that_do_not_divide_are_refused(kind, columns):
    with pytest.raises(FormatError, match=f"rows of {columns} weights are not a multiple"):
        encode(random_codes(2, columns), np.float32(1), TensorType[kind.upper()])


def test_a_block_with_two_scales_is_refused():
    with pytest.raises(FormatError, match="the tensor has one per 64"):
        encode(random_codes(2, 256), np.ones((2, 4), np.float32), TensorType.TQ2_0)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_a_scale_outside_fp16_is_refused(scale):
    with pytest.raises(FormatError, match="does not fit into fp16"):
        to_fp16(np.array([1.0, scale], np.float32))


def test_the_scale_of_an_all_zero_group_does_not_matter():
    codes = np.zeros((1, 64), np.int8)
    data = encode(codes, np.full((1, 1), 1e-6, np.float32), TensorType.Q2_0)
    assert not decode(data, 64, TensorType.Q2_0).any()


@pytest.mark.parametrize(
    "kind", [TensorType.Q4_0, TensorType.Q4_1, TensorType.Q4_K, TensorType.Q5_1, TensorType.Q6_K]
)
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_damaged_scales_become_values_without_a_warning(kind, number):
    """Whoever reads the values refuses them; numpy's warnings, errors here, say nothing to a user."""
    data = np.frombuffer(np.float16(number).tobytes() * (kind.block_bytes // 2), np.uint8)
    assert not np.isfinite(decode_blocks(data, kind, (1, kind.block))).all()


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_scales_that_are_not_finite_are_refused_without_a_warning(number):
    for codes in (np.ones((1, 32), np.int8), np.zeros((1, 32), np.int8)):
        with pytest.raises(FormatError, match="does not fit into fp16"):
            encode(codes, np.full((1, 1), number, np.float32), TensorType.Q4_0)
