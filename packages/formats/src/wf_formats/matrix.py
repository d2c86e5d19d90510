"""A quantized matrix: integer codes and the scales that they are multiplied by.

One type for all that handle such matrices, before packing and beside master weights, and for both array
libraries: `QuantizedMatrix[np.ndarray]` where files are read and packed, `QuantizedMatrix[torch.Tensor]`
where models are trained. Only operations that both libraries have are used here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np

from wf_formats.errors import LoadError

ArrayT = TypeVar("ArrayT", bound=Any)
OtherT = TypeVar("OtherT", bound=Any)

TERNARY_BITS, INT4_BITS = 2, 4


@dataclass(frozen=True)
class QuantizedMatrix(Generic[ArrayT]):
    """W[r, k] = scale of its group * codes[r, k], plus the offset of its group where there are offsets."""

    codes: ArrayT
    """int8 [out, in]: -1, 0, 1 with 2 bits, else signed integers of `bits` bits."""
    scales: ArrayT
    """float32 [] (the whole matrix), [out] (rows) or [out, in / group] (groups of a row)."""
    bits: int = TERNARY_BITS
    """Of a code: 2 (ternary), 4, 6 or 8."""
    offsets: ArrayT | None = None
    """float32 like `scales` of groups [out, in / group]: what is added to each value of a group. None: codes
    of zero mean zero."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.codes.shape[1]

    @property
    def granularity(self) -> str:
        """ "tensor", "row" or "group<size>"."""
        if self.scales.ndim < 2:
            return ("tensor", "row")[self.scales.ndim]
        return f"group{self.codes.shape[1] // self.scales.shape[1]}"

    @property
    def group_size(self) -> int | None:
        """Inputs that share a scale; None: the whole matrix does."""
        if self.scales.ndim == 0:
            return None
        groups = 1 if self.scales.ndim == 1 else self.scales.shape[1]
        return int(self.codes.shape[1] // groups)

    def values(self) -> ArrayT:
        """float32 [out, in]; scaled in place, since fresh pages cost more than the products."""
        values = _as_float32(self.codes)
        if self.scales.ndim == 0:
            values *= self.scales
            return values
        scales = self.scales.reshape(self.codes.shape[0], -1, 1)
        grouped = values.reshape(self.codes.shape[0], scales.shape[1], -1)
        grouped *= scales
        if self.offsets is not None:
            grouped += self.offsets.reshape(scales.shape)
        return grouped.reshape(self.codes.shape)

    def take_rows(self, order: ArrayT) -> QuantizedMatrix[ArrayT]:
        """Rows in another order."""
        scales = self.scales[order] if self.scales.ndim else self.scales
        offsets = None if self.offsets is None else self.offsets[order]
        return replace(self, codes=self.codes[order], scales=scales, offsets=offsets)

    def to(self, convert: Callable[[ArrayT], OtherT]) -> QuantizedMatrix[OtherT]:
        """The same matrix with arrays of another kind: `matrix.to(torch.from_numpy)`."""
        offsets = None if self.offsets is None else convert(self.offsets)
        return QuantizedMatrix(convert(self.codes), convert(self.scales), self.bits, offsets)

    def times(self, factor: float) -> QuantizedMatrix[ArrayT]:
        """The matrix multiplied by a number, which scales and offsets take."""
        offsets = None if self.offsets is None else self.offsets * factor
        return replace(self, scales=self.scales * factor, offsets=offsets)


def _as_float32(codes: Any) -> Any:
    """A copy, of either library."""
    return codes.astype(np.float32) if isinstance(codes, np.ndarray) else codes.float()


NumpyMatrix = QuantizedMatrix[np.ndarray]


LARGEST_STORED_SCALE = float(np.finfo(np.float16).max)
"""Of weights in a folder; what no 16-bit format of weights holds is damage."""


def check_stored_scales(name: str, scales: np.ndarray) -> None:
    """Raises LoadError for scales that no exporter writes: NaN, infinity, negative or larger than float16
    holds. Zero is one: of a group, or an axis of a plane, without weights.

    GGUF blocks have negative ones (llama.cpp's Q4_0), so that their readers ask `check_scales` alone.

    Args:
        name: of the tensor.
    """
    check_scales(name, scales)
    outside = (scales < 0) | (scales > LARGEST_STORED_SCALE)
    if outside.any():
        raise LoadError(
            f"{name}: a scale is {scales[outside].flat[0]:g}, outside of 0 to {LARGEST_STORED_SCALE:g}; the "
            "file is damaged, export it again"
        )


def check_scales(name: str, scales: np.ndarray) -> None:
    """Raises LoadError for NaN and infinity."""
    if not np.isfinite(scales).all():
        wrong = scales[~np.isfinite(scales)].flat[0]
        raise LoadError(f"{name}: a scale is {wrong}; the file is damaged, export it again")
