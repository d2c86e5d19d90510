"""A low-rank correction beside a matrix: y = W x + up (down x), x not rounded."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class LowRankPair:
    """The two factors, fp32."""

    up: np.ndarray
    """[out, rank]"""
    down: np.ndarray
    """[rank, in]"""

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    def take_rows(self, order: np.ndarray) -> LowRankPair:
        """Outputs in another order, or some of them."""
        return replace(self, up=self.up[order])

    def times(self, factor: float) -> LowRankPair:
        """The correction multiplied by a number."""
        return replace(self, up=self.up * np.float32(factor))
