"""What a model makes of a token sequence, and how far two models' views of it lie apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TokenScores:
    """Of each token but the first, given all before it."""

    log_probs: np.ndarray
    """Natural log-probability of the token, [tokens - 1]."""
    best: np.ndarray
    """Id of the most probable token instead, [tokens - 1]."""

    @property
    def perplexity(self) -> float:
        return math.exp(-float(np.mean(self.log_probs)))


@dataclass(frozen=True)
class Difference:
    """How far two models' scores of the same tokens lie apart."""

    top1_agreement: float
    max_abs_delta: float
    mean_abs_delta: float

    @classmethod
    def between(cls, left: TokenScores, right: TokenScores) -> Difference:
        delta = np.abs(left.log_probs - right.log_probs)
        agreement = float(np.mean(left.best == right.best))
        return cls(agreement, float(delta.max()), float(delta.mean()))
