"""Both layouts by their definition, bit by bit; against transformers' own packing: the converter's tests."""

import numpy as np
import pytest

from wf_formats.packed_codes import pack_inputs, pack_rows, unpack_inputs, unpack_rows


@pytest.fixture
def codes():
    return np.random.default_rng(0).integers(-1, 2, (8, 12)).astype(np.int8)


def test_a_byte_by_hand():
    codes = np.array([[-1, 0, 1, 1]], np.int8)
    assert pack_inputs(codes).tolist() == [[0b10100100]]
    assert pack_rows(codes.T).tolist() == [[0b10100100]]


def test_inputs_lie_side_by_side(codes):
    packed = pack_inputs(codes)
    assert (packed.shape, packed.dtype) == ((8, 3), np.uint8)
    for (row, column), code in np.ndenumerate(codes):
        assert (int(packed[row, column // 4]) >> 2 * (column % 4) & 3) - 1 == code
    assert (unpack_inputs(packed) == codes).all()
    assert unpack_inputs(packed).dtype == np.int8


def test_rows_lie_a_quarter_apart(codes):
    packed = pack_rows(codes)
    assert (packed.shape, packed.dtype) == ((2, 12), np.uint8)
    for (row, column), code in np.ndenumerate(codes):
        assert (int(packed[row % 2, column]) >> 2 * (row // 2) & 3) - 1 == code
    assert (unpack_rows(packed) == codes).all()
    assert unpack_rows(packed).dtype == np.int8


def test_part_of_a_wider_array_is_unpacked(codes):
    wide = np.pad(pack_inputs(codes), ((0, 0), (2, 1)))
    assert (unpack_inputs(wide[:, 2:-1]) == codes).all()


def test_the_level_that_is_no_code_shows():
    assert unpack_inputs(np.array([[0b11100100]], np.uint8)).tolist() == [[-1, 0, 1, 2]]
    assert unpack_rows(np.array([[0b11100100]], np.uint8)).tolist() == [[-1], [0], [1], [2]]


def test_what_fills_no_byte_is_refused(codes):
    with pytest.raises(ValueError, match="10 inputs are not a multiple of 4"):
        pack_inputs(codes[:, :10])
    with pytest.raises(ValueError, match="6 rows are not a multiple of 4"):
        pack_rows(codes[:6])
