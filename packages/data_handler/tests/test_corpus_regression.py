"""The loss of a mixture predicted from others."""

from __future__ import annotations

import numpy as np
import pytest

from data_handler.corpus.regression import (
    best_mixture,
    fit,
    held_out_predictions,
    rank_correlation,
    rounded,
    sample_mixtures,
)


def bowl(weights: np.ndarray) -> np.ndarray:
    """A loss with its least at 0.6, 0.3, 0.1."""
    return 3.0 + ((weights - np.array([0.6, 0.3, 0.1])) ** 2).sum(1)


def test_mixtures_are_random_weights_the_equal_one_first() -> None:
    mixtures = sample_mixtures(4, 200, seed=3)
    np.testing.assert_allclose(mixtures.sum(1), 1)
    assert mixtures.min() >= 0
    np.testing.assert_allclose(mixtures[0], 0.25)
    np.testing.assert_allclose(mixtures[1:5].max(1), 0.8)
    assert mixtures[1:5].argmax(1).tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(mixtures[:50], sample_mixtures(4, 50, seed=3))
    assert not np.array_equal(mixtures[1:], sample_mixtures(4, 200, seed=4)[1:])
    np.testing.assert_allclose(mixtures[1:].mean(0), 0.25, atol=0.05)


def test_a_quadratic_loss_is_found_exactly() -> None:
    mixtures = sample_mixtures(3, 12, seed=0)
    surface = fit(mixtures, bowl(mixtures))
    others = sample_mixtures(3, 50, seed=1)
    np.testing.assert_allclose(surface.predict(others), bowl(others), atol=1e-4)
    np.testing.assert_allclose(best_mixture(surface, mixtures, seed=0), [0.6, 0.3, 0.1], atol=0.03)


def test_nothing_beyond_the_trials_is_proposed() -> None:
    """The loss falls towards the first source alone, of which no trial had more than 0.5."""
    mixtures = sample_mixtures(3, 60, seed=0)
    tried = mixtures[mixtures[:, 0] <= 0.5][:14]
    best = best_mixture(fit(tried, 5 - tried[:, 0]), tried, seed=0)
    assert tried[:, 0].max() - 0.1 <= best[0] <= tried[:, 0].max() + 1e-3


def test_held_out_predictions_tell_a_surface_from_noise() -> None:
    mixtures = sample_mixtures(3, 40, seed=0)
    generator = np.random.default_rng(0)
    signal = bowl(mixtures) + generator.normal(0, 0.02, 40)
    correlation = rank_correlation(held_out_predictions(mixtures, signal, 5), signal)
    assert correlation is not None
    assert correlation > 0.8
    chance = []
    for seed in range(5):
        noise = np.random.default_rng(seed).normal(size=40)
        chance.append(rank_correlation(held_out_predictions(mixtures, noise, 5), noise) or 0.0)
    assert np.mean(chance) < 0.3


def test_a_held_out_run_does_not_predict_itself() -> None:
    mixtures = sample_mixtures(3, 20, seed=0)
    losses = bowl(mixtures)
    losses[7] += 100.0
    assert held_out_predictions(mixtures, losses, 20)[7] < 10.0


def test_noise_is_shrunk_to_the_mean() -> None:
    """With nothing to be learned the left-out error is least where the surface is flat."""
    mixtures = sample_mixtures(4, 30, seed=0)
    spreads = []
    for seed in range(8):
        losses = np.random.default_rng(seed).normal(size=30)
        spreads.append(np.ptp(fit(mixtures, losses).predict(sample_mixtures(4, 100, seed=1))))
    assert np.median(spreads) < 1.5


def test_ranks_without_an_order_have_no_correlation() -> None:
    assert rank_correlation(np.ones(4), np.arange(4.0)) is None
    assert rank_correlation(np.arange(4.0), np.exp(np.arange(4.0))) == pytest.approx(1.0)
    assert rank_correlation(np.arange(4.0), -np.arange(4.0)) == pytest.approx(-1.0)


@pytest.mark.parametrize("weights", [[1 / 3] * 3, [0.12345, 0.5, 0.37655], [1.0, 0.0, 0.0]])
def test_rounded_weights_sum_to_one(weights: list[float]) -> None:
    found = rounded(np.array(weights))
    assert found.sum() == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(found, weights, atol=0.0021)
    np.testing.assert_array_equal(found, np.round(found, 3))
