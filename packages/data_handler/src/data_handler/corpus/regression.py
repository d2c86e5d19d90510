"""Which mixture of sources has the least loss, predicted from small runs (RegMix, arXiv 2407.01492).

1. Mixtures: the equal one, one with most of it for each source, then draws from Dirichlet distributions of
   several concentrations. The loss of a small model is measured for each.
2. The loss is fitted as a Scheffe polynomial of the weights (Scheffe 1958, "Experiments with mixtures"),

       L(w) = sum_i b_i w_i + sum_{i<j} b_ij w_i w_j,    sum_i w_i = 1,

   by ridge regression. Where each run in turn is left out (closed form), its penalty is the largest whose
   error is within a standard error of the least.
3. The loss of 100,000 mixtures is predicted, and the mean of the best 100 proposed. Those that give a source
   more or less than any trial did are left out: there the polynomial only guesses.

RegMix fits a linear model and gradient-boosted trees on 512 runs; with the tens of runs that minutes allow,
trees have too little to split, and a linear model always proposes one source alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_CONCENTRATIONS = (0.3, 3.0)
_MOST = 0.8
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
    """Mixtures [n, k] of step 1; the first ones are the same whatever their number."""
    of_concentrations, of_weights = np.random.default_rng(seed).spawn(2)
    low, high = np.log(_CONCENTRATIONS)
    concentrations = np.exp(of_concentrations.uniform(low, high, num_mixtures))
    parts = of_weights.standard_gamma(np.repeat(concentrations, num_sources).reshape(-1, num_sources))
    mixtures: Array = parts / parts.sum(1, keepdims=True)
    most = np.full((num_sources, num_sources), (1 - _MOST) / max(1, num_sources - 1))
    np.fill_diagonal(most, _MOST)
    fixed = np.concatenate([np.full((1, num_sources), 1 / num_sources), most])[:num_mixtures]
    mixtures[: len(fixed)] = fixed
    return mixtures


def fit(weights: Array, losses: Array) -> Surface:
    """Args: weights [n, k], losses [n] with n of at least 2. Returns: the surface of step 2."""
    features = _features(weights)
    center, scale = features.mean(0), features.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    mean = float(losses.mean())
    left, singular, right = np.linalg.svd((features - center) / scale, full_matrices=False)
    along = left.T @ (losses - mean)
    penalties = _PENALTIES * len(losses)
    errors = np.stack([_left_out_errors(left, singular, along, losses - mean, p) for p in penalties])
    means = errors.mean(1)
    best = int(np.argmin(means))
    enough = means[best] + errors[best].std() / np.sqrt(len(losses))
    penalty = penalties[np.flatnonzero(means <= enough)[-1]]
    return Surface(center, scale, right.T @ (singular / (singular**2 + penalty) * along), mean)


def _left_out_errors(left: Array, singular: Array, along: Array, losses: Array, penalty: float) -> Array:
    """Squared error of each run predicted without it (Allen's PRESS), the mean being fitted too."""
    kept = singular**2 / (singular**2 + penalty)
    leverage = (left**2) @ kept + 1 / len(losses)
    residuals = losses - left @ (kept * along)
    errors: Array = (residuals / np.maximum(1 - leverage, 1e-12)) ** 2
    return errors


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


def best_mixture(surface: Surface, tried: Array, seed: int) -> Array:
    """Weights [k] of step 3, to three decimals, of sum 1.

    Args: tried: the mixtures [n, k] that the surface was fitted on.
    """
    simulated = sample_mixtures(tried.shape[1], _NUM_SIMULATED, seed)
    is_known = ((simulated >= tried.min(0)) & (simulated <= tried.max(0))).all(1)
    simulated = np.concatenate([tried, simulated[is_known]])
    order = np.argsort(surface.predict(simulated), kind="stable")
    return rounded(simulated[order[:_NUM_BEST]].mean(0))


def rounded(weights: Array) -> Array:
    """To three decimals; what rounding leaves over goes to the largest."""
    found = np.round(weights, _DECIMALS)
    found[np.argmax(found)] += 1 - found.sum()
    return np.round(found, _DECIMALS)
