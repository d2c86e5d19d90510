"""t2 or t5: both multiply a matrix of the model on the machine at hand, and the faster one is taken.

1. The largest matrix of a layer is packed in both formats, with copies for as many bytes as the ternary
   matrices of the model have, at most twice the processor's last cache: what fits there is fast in another
   way than what does not.
2. They take turns, `ROUNDS` times: one token through all copies, then `BATCH_TOKENS` through a part of them,
   on all cores. The least processor time of each counts, so that others on the machine do not.
3. The format that is there already (`holder`) stays unless the other is faster by `MARGIN`, in the geometric
   mean of one token and the batch.

Results are equal to the bit, whichever wins. Cost: 0.2 to 0.6 s of a core for 2.4 billion weights.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ternary_kernels._native import Matrix, info, time_products
from ternary_kernels.packing import PackedTernary, default_format, pack_ternary
from wf_formats.families.block import MATRICES, part_shape
from wf_formats.matrix import TERNARY_BITS, NumpyMatrix
from wf_formats.models import ModelFile
from wf_formats.phases import PhaseMatrix

FORMATS: tuple[PackedTernary, PackedTernary] = ("t2", "t5")
MIN_WEIGHTS = 1 << 23
"""Of fewer in all layers a token takes less than a tenth of a millisecond, and the race more than packing."""
ROUNDS, BATCH_TOKENS = 5, 16
MARGIN = 0.03
MIN_CACHE_BYTES, MAX_COPIED_BYTES = 32 << 20, 256 << 20
_ALIGNMENT = 64

Clock = Callable[[], float]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShapeClass:
    """What of a model decides which format is faster; models that agree in it share an answer."""

    rows: int
    cols: int
    group_size: int
    """0: no groups."""
    copies: int
    """Of a matrix of this shape, that are multiplied in turn."""


@dataclass(frozen=True)
class Race:
    """Least seconds of one token and of a batch through the copies, by format."""

    seconds: Mapping[str, tuple[float, float]]

    def ratio(self, format: str) -> float:
        """Time beside the other format's, geometric mean of token and batch: below 1 is faster."""
        other = _other(format)
        pairs = zip(self.seconds[format], self.seconds[other], strict=True)
        return math.sqrt(math.prod(own / its for own, its in pairs))

    def winner(self, holder: PackedTernary) -> PackedTernary:
        """The holder, unless the other is clearly faster."""
        other = _other(holder)
        return other if self.ratio(other) < 1 - MARGIN else holder


class Records(Protocol):
    """Answers of earlier races on this machine."""

    def known(self, shape: ShapeClass) -> PackedTernary | None:
        """Of a race of these kernels."""

    def holder(self, shape: ShapeClass) -> PackedTernary | None:
        """Of the last race, whatever the kernels were."""

    def add(self, shape: ShapeClass, winner: PackedTernary, race: Race) -> None:
        """Remembers an answer."""


def choose_format(
    source: ModelFile, records: Records | None = None, clock: Clock = time.process_time
) -> PackedTernary:
    """The format for a model's ternary matrices.

    Args:
        records: of earlier races; None: there are none, and none is kept.
        clock: seconds of the processor, as `time.process_time`.

    Raises:
        LoadError: the matrix cannot be read.
    """
    default, num_weights = default_format(), num_ternary_weights(source)
    if num_weights < MIN_WEIGHTS or info()["isa"] == "scalar":  # whose race would take a minute
        return default
    tensor = largest_matrix(source)
    if isinstance(tensor, PhaseMatrix) or tensor.bits != TERNARY_BITS:
        return default
    shape = shape_class(tensor, num_weights)
    if records is not None and (known := records.known(shape)) is not None:
        return known
    holder = (None if records is None else records.holder(shape)) or default
    race = run_race(tensor, shape, clock)
    winner = race.winner(holder)
    token, batch = (its / own for own, its in zip(race.seconds["t2"], race.seconds["t5"], strict=True))
    _log.info(
        "packed as %s: beside t2, t5 takes %.2f of the time for a token, %.2f for %d at once",
        winner,
        token,
        batch,
        BATCH_TOKENS,
    )
    if records is not None:
        records.add(shape, winner, race)
    return winner


def num_ternary_weights(source: ModelFile) -> int:
    """Of all layers."""
    return source.config.num_layers * sum(_sizes_of(source).values())


def largest_matrix(source: ModelFile) -> NumpyMatrix | PhaseMatrix:
    """Of the first layer. Raises: LoadError."""
    sizes = _sizes_of(source)
    return source.matrix(0, max(sizes, key=sizes.__getitem__))


def shape_class(tensor: NumpyMatrix, num_weights: int) -> ShapeClass:
    """Of a matrix, and all ternary weights of its model."""
    rows, cols = tensor.codes.shape
    scales = np.asarray(tensor.scales)
    group_size = cols // scales.shape[1] if scales.ndim == 2 else 0
    copied_bytes = min(2 * _last_cache_bytes(), MAX_COPIED_BYTES)
    return ShapeClass(rows, cols, group_size, -(-min(num_weights, 4 * copied_bytes) // (rows * cols)))


def run_race(tensor: NumpyMatrix, shape: ShapeClass, clock: Clock) -> Race:
    """Times both formats."""
    copies = {
        name: _copies(pack_ternary(tensor.codes, tensor.scales, name), shape.copies) for name in FORMATS
    }
    rng = np.random.default_rng(0)
    token, batch = (rng.standard_normal((count, shape.cols), np.float32) for count in (1, BATCH_TOKENS))
    seconds: dict[str, list[list[float]]] = {name: [[], []] for name in FORMATS}
    for number in range(ROUNDS):
        for name in FORMATS[:: 1 if number % 2 else -1]:
            part = copies[name][number % shape.copies :: ROUNDS]
            for kept, matrices, x in zip(seconds[name], (copies[name], part), (token, batch), strict=True):
                start = clock()
                time_products(matrices, x, repeats=1)
                kept.append(clock() - start)
    return Race({name: (_least(tokens), _least(batches)) for name, (tokens, batches) in seconds.items()})


def _sizes_of(source: ModelFile) -> dict[str, int]:
    return {part: math.prod(part_shape(source.config, part)) for part in MATRICES}


def _least(seconds: list[float]) -> float:
    return max(min(seconds), 1e-9)  # of a clock that stands still


def _other(format: str) -> PackedTernary:
    return FORMATS[1 - FORMATS.index(format)]


def _copies(matrix: Matrix, count: int) -> list[Matrix]:
    """The matrix, and further ones in memory of their own."""
    data, row_scales, group_scales = matrix.parts()
    sizes = matrix.rows, matrix.cols, matrix.group_size, matrix.format
    further = (
        Matrix.from_parts(_aligned_copy(data), row_scales, _aligned_copy(group_scales), *sizes)
        for _ in range(count - 1)
    )
    return [matrix, *further]


def _aligned_copy(array: np.ndarray) -> np.ndarray:
    memory = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[:] = array
    return copy


def _last_cache_bytes() -> int:
    """Of the third level, where the C library knows it; at least `MIN_CACHE_BYTES`."""
    name = "SC_LEVEL3_CACHE_SIZE"
    return max(os.sysconf(name) if name in os.sysconf_names else 0, MIN_CACHE_BYTES)
