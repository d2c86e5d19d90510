"""Which mixture of sources has the least loss, predicted from small runs (RegMix, arXiv 2407.01492).

1. Mixtures are drawn from Dirichlet distributions of several concentrations, the equal one first, and the
   loss of a small model is measured for each.
2. The loss is fitted as a Scheffe polynomial of the weights (Scheffe 1958, "Experiments with mixtures"),

       L(w) = sum_i b_i w_i + sum_{i<j} b_ij w_i w_j,    sum_i w_i = 1,

   by ridge regression; its penalty is the one of least error where each run in turn is left out
   (closed form).
3. The loss of 100,000 mixtures from the same distributions is predicted; the mean of the best 100 is
   proposed.

RegMix fits a linear model and gradient-boosted trees on 512 runs; with the tens of runs that minutes allow,
trees have too little to split, and a linear model always proposes one source alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_CONCENTRATIONS = (0.3, 3.0)
_PENALTIES = np.logspace(-8, 2, 41)
_NUM_SIMULATED, _NUM_BEST = 100_000, 100
_DECIMALS = 3


@dataclass(frozen=True)
class Surface:
    """A fitted loss. center, scale: of the features [f]; slopes: [f]; mean: of the losses."""

    center: Array
    scale: Array
    slopes: Array
    mean: float

    def predict(self, weights: Array) -> Array:
        """Losses [n] of mixtures [n, k]."""
        predicted: Array = (_features(weights) - self.center) / self.scale @ self.slopes + self.mean
        return predicted


def sample_mixtures(num_sources: int, num_mixtures: int, seed: int) -> Array:
    """Random mixtures [n, k], the equal one first; the first ones are the same whatever their number."""
    of_concentrations, of_weights = np.random.default_rng(seed).spawn(2)
    low, high = np.log(_CONCENTRATIONS)
    concentrations = np.exp(of_concentrations.uniform(low, high, num_mixtures))
    parts = of_weights.standard_gamma(np.repeat(concentrations, num_sources).reshape(-1, num_sources))
    mixtures: Array = parts / parts.sum(1, keepdims=True)
    mixtures[0] = 1 / num_sources
    return mixtures


def fit(weights: Array, losses: Array) -> Surface:
    """Args: weights [n, k], losses [n] with n of at least 2. Returns: the surface of step 2."""
    features = _features(weights)
    center, scale = features.mean(0), features.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    mean = float(losses.mean())
    left, singular, right = np.linalg.svd((features - center) / scale, full_matrices=False)
    along = left.T @ (losses - mean)
    errors = [
        _left_out_error(left, singular, along, losses - mean, penalty) for penalty in _penalties(len(losses))
    ]
    penalty = _penalties(len(losses))[int(np.argmin(errors))]
    return Surface(center, scale, right.T @ (singular / (singular**2 + penalty) * along), mean)


def _penalties(num_runs: int) -> Array:
    penalties: Array = _PENALTIES * num_runs
    return penalties


def _left_out_error(left: Array, singular: Array, along: Array, losses: Array, penalty: float) -> float:
    """Mean squared error of each run predicted without it (Allen's PRESS), the mean being fitted too."""
    kept = singular**2 / (singular**2 + penalty)
    leverage = (left**2) @ kept + 1 / len(losses)
    residuals = losses - left @ (kept * along)
    return float(np.mean((residuals / np.maximum(1 - leverage, 1e-12)) ** 2))


def _features(weights: Array) -> Array:
    """Weights and their products, [n, k (k + 1) / 2]."""
    first, second = np.triu_indices(weights.shape[1], 1)
    return np.hstack([weights, weights[:, first] * weights[:, second]])


def held_out_predictions(weights: Array, losses: Array, num_folds: int) -> Array:
    """Losses [n], each predicted by a fit without it and a fold of others."""
    predicted = np.empty_like(losses)
    folds = np.arange(len(losses)) % num_folds
    for fold in range(num_folds):
        is_left_out = folds == fold
        predicted[is_left_out] = fit(weights[~is_left_out], losses[~is_left_out]).predict(
            weights[is_left_out]
        )
    return predicted


def rank_correlation(left: Array, right: Array) -> float | None:
    """Spearman's; None where one of them has no order."""
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        return None
    first, second = (np.argsort(np.argsort(values)) for values in (left, right))
    return float(np.corrcoef(first, second)[0, 1])


def best_mixture(surface: Surface, num_sources: int, seed: int) -> Array:
    """Weights [k] of step 3, to three decimals, of sum 1."""
    simulated = sample_mixtures(num_sources, _NUM_SIMULATED, seed)
    order = np.argsort(surface.predict(simulated), kind="stable")
    return rounded(simulated[order[:_NUM_BEST]].mean(0))


def rounded(weights: Array) -> Array:
    """To three decimals; what rounding leaves over goes to the largest."""
    found = np.round(weights, _DECIMALS)
    found[np.argmax(found)] += 1 - found.sum()
    return np.round(found, _DECIMALS)
