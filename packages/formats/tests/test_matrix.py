"""A quantized matrix with offsets: values, rows, factors, the other array library."""

from __future__ import annotations

import numpy as np
import torch

from wf_formats.matrix import QuantizedMatrix

CODES = np.array([[-8, 7, 0, 1], [3, -2, 5, -5]], np.int8)
SCALES = np.array([[0.5, 2.0], [1.0, 0.25]], np.float32)
OFFSETS = np.array([[1.0, -4.0], [0.0, 0.5]], np.float32)
VALUES = [[-3.0, 4.5, -4.0, -2.0], [3.0, -2.0, 1.75, -0.75]]


def test_offsets_are_added_to_their_group() -> None:
    matrix = QuantizedMatrix(CODES, SCALES, 4, OFFSETS)
    assert matrix.values().tolist() == VALUES
    assert matrix.take_rows(np.array([1, 0])).values().tolist() == VALUES[::-1]
    assert matrix.times(2.0).values().tolist() == (2 * np.array(VALUES)).tolist()
    there = matrix.to(torch.from_numpy)
    assert isinstance(there.offsets, torch.Tensor)
    assert there.values().tolist() == VALUES
    assert QuantizedMatrix(CODES, SCALES, 4).values().tolist() == [[-4, 3.5, 0, 2], [3, -2, 1.25, -1.25]]
