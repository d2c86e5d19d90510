"""Codes and scales of a matrix, before packing: ternary matrices and grouped integers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from wf_formats.errors import LoadError


@dataclass(frozen=True)
class TernaryTensor:
    """W[r, k] = scale of its group * code."""

    codes: np.ndarray
    """int8 [N, K] in {-1, 0, 1}."""
    scales: np.ndarray
    """fp32 [] (whole matrix), [N] (rows) or [N, K / group]."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.codes.shape[1]

    @property
    def granularity(self) -> str:
        """ "tensor", "row" or "group<size>"."""
        if self.scales.ndim < 2:
            return ("tensor", "row")[self.scales.ndim]
        return f"group{self.codes.shape[1] // self.scales.shape[1]}"

    def values(self) -> np.ndarray:
        """fp32 [N, K]."""
        scales = self.scales.reshape(-1, 1) if self.scales.ndim < 2 else self.scales
        per_weight = np.repeat(scales, self.codes.shape[1] // scales.shape[1], axis=1)
        return self.codes * per_weight

    def take_rows(self, order: np.ndarray) -> TernaryTensor:
        """Rows in another order."""
        scales = self.scales[order] if self.scales.ndim else self.scales
        return TernaryTensor(self.codes[order], scales)

    def times(self, factor: float) -> TernaryTensor:
        return replace(self, scales=np.asarray(self.scales * np.float32(factor)))


@dataclass(frozen=True)
class GroupTensor:
    """W[r, k] = scales[r, k // group] * codes[r, k], codes of 4, 6 or 8 bits."""

    codes: np.ndarray
    """int8 [N, K]."""
    scales: np.ndarray
    """fp32 [N, K / group]."""
    bits: Literal[4, 6, 8]

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.codes.shape[1]

    def values(self) -> np.ndarray:
        """fp32 [N, K]."""
        return self.codes * np.repeat(self.scales, self.codes.shape[1] // self.scales.shape[1], axis=1)


def check_scales(name: str, scales: np.ndarray) -> None:
    """Raises LoadError for NaN and infinity."""
    if not np.isfinite(scales).all():
        wrong = scales[~np.isfinite(scales)].flat[0]
        raise LoadError(f"{name}: a scale is {wrong}; the file is damaged, export it again")
