"""Matrices of complex weights that are sums of phases 1, i, -1, -i, and their files (Fairy2i; 2512.02901).

A real matrix [2n, 2m] is the widely linear map y = U x + W conj(x) of complex vectors: the first halves of
inputs and outputs are their real parts, the second halves the imaginary ones. U and W are sums of planes:
every weight of a plane is one of the phases i^0 .. i^3, times the plane's scale of the real axis (of 1 and
-1) or of the imaginary one (of i and -i). A plane of U and one of W are a bit for each real weight.

In a folder of quant_method "wrinklefree_phases" (`wf export --format phases`) a matrix is two tensors:

    <name>.weight        uint8 [2 planes n, m / 4]  byte [r, c] holds the exponents k of i^k of the columns
                         4 c .. 4 c + 3 at the bits 0, 2, 4, 6; rows are those of U of the first plane, of W
                         of the first plane, of U of the second plane, of W of the second plane
    <name>.weight_scale  fp32 [planes, 4]           of each plane U real, U imaginary, W real, W imaginary

Example: the real matrix of 2 x 8 with U = [1, i, -1, -i], W = [i, i, 1, 1] and one plane of scales
u = (0.5, 0.25), w = (2, 4): weight is [[0b11100100], [0b00000101]] = [[228], [5]], weight_scale
[[0.5, 0.25, 2, 4]]; its first row is [0.5, 0, 1.5, 2, 4, 3.75, 0, 0.25].
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from wf_formats.errors import LoadError
from wf_formats.kernel_sizes import SUMMED_INPUTS
from wf_formats.packed_codes import CODES_PER_BYTE, SHIFTS

COLUMNS_OF_BYTE = 2 * CODES_PER_BYTE
"""Inputs of a real row that fill whole bytes, those of both halves."""


@dataclass(frozen=True)
class PhaseMatrix:
    """A real matrix [2n, 2m] as planes of phases."""

    phases: np.ndarray
    """uint8 [planes, 2 (U, W), n, m]: k of i^k, 0 to 3."""
    scales: np.ndarray
    """float32 [planes, 2 (U, W), 2 (real axis, imaginary axis)]."""

    @property
    def shape(self) -> tuple[int, int]:
        """Of the real matrix."""
        return 2 * self.phases.shape[2], 2 * self.phases.shape[3]

    @property
    def num_planes(self) -> int:
        return len(self.phases)

    def times(self, factor: float) -> PhaseMatrix:
        """The matrix multiplied by a number, which the scales take."""
        return replace(self, scales=self.scales * np.float32(factor))

    def values(self) -> np.ndarray:
        """float32 [2n, 2m]."""
        parts = [_parts(*plane) for plane in zip(self.phases, self.scales, strict=True)]
        (u_re, u_im), (w_re, w_im) = sum(parts[1:], parts[0])
        return np.block([[w_re + u_re, w_im - u_im], [w_im + u_im, u_re - w_re]])


def _parts(phases: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """A plane's [2 (U, W), n, m] and [2, 2] -> float32 [2 (U, W), 2 (real, imaginary), n, m]."""
    units = np.array([[1, 0, -1, 0], [0, 1, 0, -1]], np.float32)
    return np.stack([units[:, its] * scale[:, None, None] for its, scale in zip(phases, scales, strict=True)])


def check_columns(name: str, columns: int) -> None:
    """Raises LoadError where the rows of a real matrix do not fill whole bytes."""
    if columns % COLUMNS_OF_BYTE:
        raise LoadError(
            f"{name}: rows of {columns} weights do not fill whole bytes of phases, {COLUMNS_OF_BYTE} weights "
            "each; alternative: serve the checkpoint as it is (wf serve)"
        )


def check_summed(name: str, columns: int) -> None:
    """Raises LoadError for a real matrix whose rows have more inputs than a sum of the kernels holds: its
    scales are of whole rows, so that no smaller groups help."""
    if columns > SUMMED_INPUTS:
        raise LoadError(
            f"{name}: rows of {columns} inputs; integer sums of complex weights hold {SUMMED_INPUTS}, and "
            "their scales have no groups: a real scheme has some (model.scheme=group64), and PyTorch runs "
            "the checkpoint as it is"
        )


def pack_phases(phases: np.ndarray) -> np.ndarray:
    """uint8 [planes, 2, n, m] in 0..3 -> uint8 [2 planes n, m / 4].

    Raises:
        ValueError: m is no multiple of 4.
    """
    if (columns := phases.shape[-1]) % CODES_PER_BYTE:
        raise ValueError(
            f"{columns} complex columns are not a multiple of {CODES_PER_BYTE}, the phases of a byte"
        )
    fours = phases.reshape(-1, columns // CODES_PER_BYTE, CODES_PER_BYTE)
    packed: np.ndarray = np.bitwise_or.reduce(fours << np.array(SHIFTS, np.uint8), axis=-1)
    return packed


def unpack_phases(packed: np.ndarray, num_planes: int) -> np.ndarray:
    """uint8 [2 planes n, m / 4] -> uint8 [planes, 2, n, m]."""
    phases = packed[..., None] >> np.array(SHIFTS, np.uint8) & 3
    return phases.reshape(num_planes, 2, len(packed) // (2 * num_planes), -1)
