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
        """Compares token by token."""
        delta = np.abs(left.log_probs - right.log_probs)
        agreement = float(np.mean(left.best == right.best))
        return cls(agreement, float(delta.max()), float(delta.mean()))


@dataclass(frozen=True)
class ScaleEstimate:
    """The common relative error of all ternary scales that best explains a difference of log-probs.

    Rounding noise moves log-probs at random, a wrong scale moves each token by its sensitivity times
    the error: a least-squares fit over the tokens tells the two apart even where the noise is larger.
    """

    relative_error: float
    standard_error: float

    @classmethod
    def fit(cls, expected: TokenScores, found: TokenScores, sensitivity: np.ndarray) -> ScaleEstimate:
        """Args: sensitivity: d log-prob / d ln(scale) per token."""
        delta = found.log_probs - expected.log_probs
        energy = float(sensitivity @ sensitivity)
        error = float(sensitivity @ delta) / energy
        residual = delta - error * sensitivity
        variance = float(residual @ residual) / (len(delta) - 1)
        return cls(error, math.sqrt(variance / energy))
