"""Recognises ternary matrices: in quantized blocks and in float values.

Recognition looks at values, not at names of types, because exporters put ternary matrices into Q4_0,
Q8_0 or F16 where no ternary type fits: a group is ternary if its non-zero magnitudes are all the same
number. Groups with equal scales are joined to the coarsest grouping that fits (whole matrix, row, 128,
64, 32 inputs); groups of zeros fit any scale. Nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from wf_formats.errors import LoadError
from wf_formats.matrix import NumpyMatrix, QuantizedMatrix, check_scales

REMEDY = (
    "the native engine runs ternary models, and those of 4 to 8 bits in GGUF: convert and train the model "
    "first (training stages stage1_subln and stage2) and export it again, or let llama.cpp's llama-quantize "
    "make a Q8_0 or Q4_0 of it"
)
GROUPS = (128, 64, 32)
"""Groupings tried after whole matrix and row, coarsest first."""
LEAST_TERNARY_GROUP = GROUPS[-1]
"""Packed ternary matrices have no scales of fewer inputs."""
_CHUNK_WEIGHTS = 1 << 20


def from_blocks(name: str, codes: np.ndarray, scales: np.ndarray, factor: float = 1.0) -> NumpyMatrix:
    """A ternary matrix from integer blocks.

    Args:
        name: for errors.
        codes: int8 [N, K], changed in place.
        scales: fp32 [N, K / block].
        factor: a scale of the whole matrix besides (`.scale` tensor).

    Raises:
        LoadError: a block holds two different magnitudes, or a scale is not finite.
    """
    check_scales(name, scales)
    check_scales(f"{name}: scale of the matrix", np.asarray(factor))
    rows, columns = codes.shape
    grouped = codes.reshape(rows, scales.shape[1], -1)
    magnitudes = np.empty(scales.shape, np.float32)
    for part in _row_chunks(rows, columns):
        magnitudes[part] = _signs_in_place(name, grouped[part], np.signbit(scales[part]))
    # The factor comes last and once, so that one scale for the matrix stays exact.
    merged = _merge(codes, np.abs(scales) * magnitudes)
    return merged.times(abs(factor)) if factor >= 0 else _negated(merged).times(abs(factor))


def are_ternary(codes: np.ndarray, scales: np.ndarray, group: int) -> bool:
    """Whether each `group` weights of a row have one magnitude besides 0, by integer blocks without offsets,
    which are not made into floats for it.

    A block of scale 0 counts by its codes.

    Args:
        codes: int8 [N, K].
        scales: fp32 [N, K / block].
        group: of weights, one block or several.
    """
    rows, columns = codes.shape
    grouped = codes.reshape(*scales.shape, -1)
    for part in _row_chunks(rows, columns):
        magnitudes = np.abs(grouped[part]).view(np.uint8)  # |-128| is 128 as uint8
        largest = magnitudes.max(axis=-1)
        if _others(magnitudes, largest).any():
            return False
        with np.errstate(invalid="ignore"):  # 0 times infinity is refused where scales are checked
            joined = (largest * np.abs(scales[part])).reshape(-1, group // grouped.shape[-1])
        if _others(joined, joined.max(axis=-1)).any():
            return False
    return True


def from_values(name: str, rows: Callable[[slice], np.ndarray], shape: tuple[int, int]) -> NumpyMatrix:
    """A ternary matrix from its float values.

    Args:
        rows: fp32 values [rows, K] of a slice of rows.
        shape: [N, K].

    Raises:
        LoadError: a group of 32 (a row, where rows do not divide) holds two different magnitudes.
    """
    num_rows, columns = shape
    num_groups = columns // 32 if columns % 32 == 0 else 1
    codes = np.empty(shape, np.int8)
    scales = np.empty((num_rows, num_groups), np.float32)
    for part in _row_chunks(num_rows, columns):
        values = rows(part)
        check_scales(f"{name}: values", values)
        magnitudes = np.abs(values).reshape(-1, num_groups, columns // num_groups)
        scales[part] = magnitudes.max(axis=-1)
        _check_equal(name, magnitudes, scales[part])
        codes[part] = np.sign(values)
    return _merge(codes, scales)


def if_ternary(rows: Callable[[slice], np.ndarray], shape: tuple[int, int]) -> NumpyMatrix | None:
    """`from_values`; None of a matrix that is not ternary or not finite, read up to where that shows."""
    try:
        return from_values("values", rows, shape)
    except LoadError:
        return None


def _row_chunks(rows: int, columns: int) -> list[slice]:
    step = max(1, _CHUNK_WEIGHTS // columns)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _signs_in_place(name: str, codes: np.ndarray, is_negative: np.ndarray) -> np.ndarray:
    """Replaces codes [rows, groups, block] by their signs; returns the magnitude of each group."""
    magnitudes = np.abs(codes).view(np.uint8)  # |-128| is 128 as uint8
    largest = magnitudes.max(axis=-1)
    _check_equal(name, magnitudes, largest)
    np.sign(codes, out=codes)
    if is_negative.any():
        codes[is_negative] *= -1
    return largest


def _others(magnitudes: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Which are neither 0 nor their group's largest."""
    others: np.ndarray = (magnitudes != 0) & (magnitudes != largest[..., None])
    return others


def _check_equal(name: str, magnitudes: np.ndarray, largest: np.ndarray) -> None:
    """Raises LoadError where a group's magnitudes are neither 0 nor its largest."""
    others = _others(magnitudes, largest)
    if others.any():
        row, group, _ = np.argwhere(others)[0]
        found = np.unique(magnitudes[row, group][magnitudes[row, group] != 0])[:3].tolist()
        raise LoadError(f"{name} is not ternary: one group of weights has the magnitudes {found}; {REMEDY}")


def _negated(matrix: NumpyMatrix) -> NumpyMatrix:
    np.negative(matrix.codes, out=matrix.codes)
    return matrix


def _merge(codes: np.ndarray, scales: np.ndarray) -> NumpyMatrix:
    """Joins groups [N, K / block] of equal scales (>= 0; 0: all codes are zero or mean zero)."""
    columns = codes.shape[1]
    block = columns // scales.shape[1]
    if not scales.all():
        grouped = codes.reshape(*scales.shape, block)
        grouped[(scales == 0)] = 0  # the value is 0 whatever the code
    for group in (None, columns, *(size for size in GROUPS if size % block == 0 and columns % size == 0)):
        joined = _joined(scales, scales.size if group is None else group // block)
        if joined is not None:
            shape = () if group is None else (scales.shape[0],) if group == columns else (scales.shape[0], -1)
            return QuantizedMatrix(codes, joined.reshape(shape))
    finest = next(size for size in (*GROUPS, block) if block % size == 0)
    return QuantizedMatrix(codes, np.repeat(scales, block // finest, axis=1))


def _joined(scales: np.ndarray, num_blocks: int) -> np.ndarray | None:
    """One scale for every `num_blocks` neighbours, or None where two of them differ."""
    runs = scales.reshape(-1, num_blocks)
    largest = runs.max(axis=1)
    fits = (runs == largest[:, None]) | (runs == 0)
    return largest if fits.all() else None
