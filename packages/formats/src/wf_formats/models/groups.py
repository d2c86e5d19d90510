"""Embedding and head matrices: integers in groups, exact where the file has such, else 8 bits.

    stored as            becomes                error of a weight
    Q8_0                 8 bits, groups of 32   none
    Q4_0                 4 bits, groups of 32   none
    Q5_0                 6 bits, groups of 32   none
    Q6_K                 6 bits, groups of 16   none
    F32, F16, BF16, Q4_1,
    Q4_K, Q5_1, Q5_K     8 bits, groups of 32   at most max|W| of its group / 254

Rows that do not divide by 32 are cut into groups of 16. Packing keeps group scales as fp16 times a power
of two for each row: those of Q8_0, Q5_0 and Q4_0, fp16 themselves, stay what they are, the products of Q6_K
and the scales of the last line are rounded to 2^-11 of their value. So the last line is as exact as Q8_0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from wf_formats.errors import LoadError
from wf_formats.matrix import NumpyMatrix, QuantizedMatrix, check_scales

LARGEST_CODE = 127
_CHUNK_WEIGHTS = 1 << 19


def row_group(name: str, columns: int) -> int:
    """Weights of a float row that share a scale. Raises LoadError where none divides the row."""
    for size in (32, 16):
        if columns % size == 0:
            return size
    raise LoadError(
        f"{name}: rows of {columns} weights divide neither by 32 nor by 16, as embeddings and heads in the "
        "native engine do"
    )


def quantize_rows(name: str, rows: Callable[[slice], np.ndarray], shape: tuple[int, int]) -> NumpyMatrix:
    """8-bit codes of float rows.

    Args:
        name: for errors.
        rows: fp32 values [rows, K] of a slice of rows.
        shape: [N, K].

    Raises:
        LoadError: rows do not divide into groups, or a value is not finite.
    """
    num_rows, columns = shape
    group = row_group(name, columns)
    codes = np.empty(shape, np.int8)
    scales = np.empty((num_rows, columns // group), np.float32)
    step = max(1, _CHUNK_WEIGHTS // columns)
    for start in range(0, num_rows, step):
        part = slice(start, min(start + step, num_rows))
        values = rows(part).reshape(-1, columns // group, group)
        largest = np.maximum(values.max(axis=-1), -values.min(axis=-1))
        check_scales(f"{name}: values", largest)
        scales[part] = largest / np.float32(LARGEST_CODE)
        inverse = np.divide(np.float32(LARGEST_CODE), largest, out=np.zeros_like(largest), where=largest > 0)
        scaled = values * inverse[..., None]
        codes[part] = np.rint(scaled, out=scaled).reshape(-1, columns)
    return QuantizedMatrix(codes, scales, 8)
