"""The sampler against a float64 reference in numpy: candidate sets, draws, log-probabilities, errors."""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
import pytest
from sampler_rows import DEFAULTS, VOCAB, draws, random_row, sample, tk


def reference_weights(
    row: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float
) -> np.ndarray:
    """Unnormalised probabilities in float64, zero for what the filters take away."""
    z = (row.astype(np.float64) - row.max()) / np.float32(temperature)
    weights = np.exp(z)
    ranking = np.lexsort((np.arange(len(row)), -row))
    if 0 < top_k < len(row):
        weights[ranking[top_k:]] = 0
    if top_p < 1:
        before = np.cumsum(weights[ranking]) - weights[ranking]
        dropped = before >= np.float32(top_p) * weights.sum()
        dropped[0] = False
        weights[ranking[dropped]] = 0
    weights[weights < np.float32(min_p)] = 0
    return weights


def philox_uniform(seed: int, counter: int) -> float:
    """Philox4x32-10 as published (Salmon et al., SC 2011), in Python integers."""
    key, mask = [seed & 0xFFFFFFFF, seed >> 32], 0xFFFFFFFF
    words = [counter & mask, counter >> 32, 0, 0]
    for _ in range(10):
        a, b = 0xD2511F53 * words[0], 0xCD9E8D57 * words[2]
        words = [b >> 32 ^ words[1] ^ key[0], b & mask, a >> 32 ^ words[3] ^ key[1], a & mask]
        key = [key[0] + 0x9E3779B9 & mask, key[1] + 0xBB67AE85 & mask]
    return ((words[0] >> 5) * 2**26 + (words[1] >> 6)) / 2**53


def test_uniform_numbers_are_philox():
    # Known answer of Random123: counter 0, key 0 begins 6627e8d5 e169c58d.
    assert philox_uniform(0, 0) == ((0x6627E8D5 >> 5) * 2**26 + (0xE169C58D >> 6)) / 2**53
    for seed, counter in [(0, 0), (1, 0), (0, 1), (2**63 + 12345, 2**40 + 7), (2**64 - 1, 2**64 - 1)]:
        assert tk.sample_uniform(seed, counter) == philox_uniform(seed, counter)


FILTERS = [
    (temperature, top_k, top_p, min_p)
    for temperature, top_k, top_p, min_p in itertools.product(
        [0.3, 1.0, 2.5], [0, 5, 300, 5000], [1.0, 0.9, 0.2], [0.0, 0.05]
    )
]


@pytest.mark.parametrize(("temperature", "top_k", "top_p", "min_p"), FILTERS)
@pytest.mark.parametrize("scale", [0.1, 4.0])
def test_draws_invert_the_reference_distribution(
    temperature: float, top_k: int, top_p: float, min_p: float, scale: float
):
    """Every draw is the token at which the reference's running mass (by id) passes u * total."""
    row = random_row(7, scale=scale)
    weights = reference_weights(row, temperature, top_k, top_p, min_p)
    running = np.cumsum(weights)
    num_draws = 100
    tokens = draws(row, num_draws, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seeds=99)
    target = np.array([philox_uniform(99, i) for i in range(num_draws)]) * running[-1]
    margin = 1e-5 * running[-1]  # where u falls this close to a border, float32 may go the other way
    below, above = (np.searchsorted(running, target + sign * margin, side="right") for sign in (-1, 1))
    assert ((below <= tokens) & (tokens <= above)).all()
    assert (weights[tokens] > 0).all()


@pytest.mark.parametrize("vocab", [1, 2, 127, 128, 129, 5000])
@pytest.mark.parametrize("kind", ["random", "sorted", "equal", "few values"])
@pytest.mark.parametrize(
    "filters", [{"top_k": 3}, {"top_k": 60}, {"top_p": 0.7}, {"top_k": 200, "top_p": 0.5}]
)
def test_candidate_sets_are_exact(vocab: int, kind: str, filters: dict[str, Any]):
    """Each survivor is drawn and nothing else, on flat rows where many draws reach all of them."""
    rng = np.random.default_rng(vocab)
    row = {
        "random": rng.uniform(0, 1, vocab),
        "sorted": np.linspace(1, 0, vocab),
        "equal": np.zeros(vocab),
        "few values": rng.integers(0, 3, vocab) / 4,
    }[kind].astype(np.float32)
    weights = reference_weights(row, 1.0, filters.get("top_k", 0), filters.get("top_p", 1.0), 0.0)
    expected = np.flatnonzero(weights)
    found = np.unique(draws(row, 2000, **filters))
    assert np.isin(found, expected).all()
    if len(expected) <= 200:
        np.testing.assert_array_equal(found, expected)
    else:  # the borders of the set: the last survivor of the ranking is in, the next one is not
        assert len(found) > 0.25 * min(len(expected), 2000)


def test_draws_have_the_right_frequencies():
    row = random_row(3, vocab=40, scale=1.0)
    num_draws = 40_000
    counts = np.bincount(draws(row, num_draws, temperature=0.8, seeds=5), minlength=40)
    expected = reference_weights(row, 0.8, 0, 1.0, 0.0)
    expected *= num_draws / expected.sum()
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 39 + 5 * np.sqrt(2 * 39)  # mean + 5 sigma of 39 degrees of freedom
    seeds = sample(np.broadcast_to(row, (num_draws, 40)), temperature=0.8, seeds=np.arange(num_draws))[0]
    chi_square = ((np.bincount(seeds, minlength=40) - expected) ** 2 / expected).sum()
    assert chi_square < 39 + 5 * np.sqrt(2 * 39)


def test_a_row_is_the_same_in_any_batch():
    rows = np.stack([random_row(seed) for seed in range(6)])
    options: dict[str, Any] = {
        "temperature": np.array([0.7, 0, 1, 1.5, 1, 1]),
        "top_k": np.array([0, 0, 40, 0, 0, 7]),
        "top_p": np.array([0.9, 1, 1, 0.5, 1, 0.8]),
        "min_p": np.array([0, 0, 0, 0, 0.1, 0]),
        "seeds": np.arange(6),
        "counters": np.arange(6)[::-1],
        "num_logprobs": np.array([-1, 0, 3, 20, -1, 1]),
    }
    history = [[i, 2 * i] for i in range(6)]
    together = sample(rows, history, repetition_penalty=1.3, **options)
    again = sample(rows, history, repetition_penalty=1.3, **options)
    for i in range(6):
        alone = sample(
            rows[i : i + 1],
            history[i : i + 1],
            repetition_penalty=1.3,
            **{name: value[i : i + 1] for name, value in options.items()},
        )
        for whole, single, repeated in zip(together, alone, again, strict=True):
            np.testing.assert_array_equal(whole[i], single[0])
            np.testing.assert_array_equal(whole[i], repeated[i])


def test_choices_and_logprobs_are_pinned_to_the_bit():
    """Whatever the instruction set, compiler and release: a seed gives the text that it gave before."""
    values = (np.arange(3000, dtype=np.int64) * 7919 % 4001).astype(np.float32) / 400
    tokens, logprobs, _, _ = sample(
        np.stack([values] * 6),
        temperature=np.array([1, 1, 0.7, 1, 0.5, 1]),
        top_p=np.array([1, 0.9, 0.8, 1, 1, 1]),
        top_k=np.array([0, 0, 0, 50, 0, 0]),
        min_p=np.array([0, 0, 0, 0, 0.02, 0]),
        seeds=2**40 + 1,
        counters=np.arange(6),
        num_logprobs=0,
    )
    assert tokens.tolist() == [245, 2993, 2411, 2893, 2942, 1501]
    assert logprobs.view(np.uint32).tolist() == [
        0xC0D1176C,
        0xC0D34062,
        0xC0BBBB42,
        0xC0BB6958,
        0xC0C0B106,
        0xC0E2D9FA,
    ]


def test_counter_and_seed_change_the_draw():
    row = np.zeros(VOCAB)
    by_counter = draws(row, 50, seeds=1)
    assert len(set(by_counter.tolist())) > 40
    other_seed = draws(row, 50, seeds=2)
    assert (by_counter != other_seed).mean() > 0.9


@pytest.mark.parametrize("temperature", [0.0, 1e-6])
def test_greedy_takes_the_lowest_id_of_equal_logits(temperature: float):
    row = np.full(VOCAB, -1.0)
    row[[300, 301, 999]] = 2.5
    assert draws(row, 3, temperature=temperature).tolist() == [300] * 3
    assert draws(row, 3, temperature=1.0, top_k=1).tolist() == [300] * 3


def test_repetition_penalty_counts_a_token_once():
    row = np.full((1, VOCAB), -3.0, np.float32)
    row[0, 5], row[0, 6], row[0, 7] = 4.0, 3.0, 2.9
    assert sample(row, [[5, 5, 5, 6]], temperature=0, repetition_penalty=1.35)[0] == [5]  # 2.96 > 2.9 > 2.2
    assert sample(row, [[5, 6, 7]], temperature=0, repetition_penalty=4)[0] == [5]
    assert sample(row, [[5, 6]], temperature=0, repetition_penalty=2)[0] == [7]
    assert sample(row, [[7]], temperature=0, repetition_penalty=0.5)[0] == [7]
    assert row[0, 5] == 4.0  # the caller's logits stay
    negative = np.full((1, VOCAB), -3.0, np.float32)
    negative[0, 8] = -2.0
    assert sample(negative, [[8]], temperature=0, repetition_penalty=2)[0] == [0]  # -4 < -3


@pytest.mark.parametrize("vocab", [5, 128, VOCAB, 4099])
def test_logprobs_are_those_of_the_raw_logits(vocab: int):
    row = random_row(11, vocab, scale=5.0)
    exact = row.astype(np.float64) - np.logaddexp.reduce(row.astype(np.float64))
    tokens, logprobs, top_tokens, top_logprobs = sample(
        row[None], [[int(row.argmax())]], temperature=0.4, repetition_penalty=3.0, top_k=3, num_logprobs=7
    )
    ranking = np.lexsort((np.arange(vocab), -row))[:7]
    np.testing.assert_array_equal(top_tokens[0], ranking)
    np.testing.assert_allclose(top_logprobs[0], exact[ranking], rtol=1e-6, atol=4e-6)
    np.testing.assert_allclose(logprobs, exact[tokens], rtol=1e-6, atol=4e-6)
    assert logprobs.dtype == np.float32
    assert tokens.dtype == top_tokens[0].dtype == np.int32


def test_logprobs_only_where_asked_for():
    rows = np.stack([random_row(seed) for seed in range(3)])
    _, logprobs, top_tokens, top_logprobs = sample(rows, num_logprobs=np.array([-1, 0, 2]))
    assert np.isnan(logprobs).tolist() == [True, False, False]
    assert [len(row) for row in top_tokens] == [len(row) for row in top_logprobs] == [0, 0, 2]
    everything = sample(rows, num_logprobs=VOCAB + 5)
    assert [len(row) for row in everything[2]] == [VOCAB] * 3


def test_only_one_token_allowed():
    row = np.full(VOCAB, -np.inf)
    row[777] = -50.0
    for options in [{}, {"top_k": 20}, {"top_p": 0.5}, {"min_p": 0.5}, {"temperature": 0}]:
        tokens, logprobs, _, _ = sample(row[None], num_logprobs=3, **options)
        assert tokens == [777]
        assert logprobs == [0.0]


def test_extreme_filters_leave_the_best_token():
    row = random_row(13)
    best = int(row.argmax())
    for options in [{"min_p": 1.0}, {"top_p": 0.0}, {"top_p": 1e-7}, {"top_k": 1}, {"temperature": 1e-4}]:
        assert set(draws(row, 20, **options).tolist()) == {best}


def test_large_logits_and_low_temperatures_do_not_overflow():
    row = np.array([3e38, -3e38, 2.9e38, 0], np.float32)
    assert set(draws(row, 20).tolist()) == {0}
    hot = draws(np.array([1e4, 1e4 - 0.5, 9e3]), 200, temperature=0.02, top_p=0.999)
    assert set(hot.tolist()) == {0}
    flat = draws(np.array([100.0, -100.0, 0.0, 50.0]), 400, temperature=1e6)
    assert set(flat.tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": -1.0}, r"row 0: temperature must be a finite number >= 0, got -1"),
        ({"temperature": np.nan}, r"row 0: temperature must be"),
        ({"top_k": -2}, r"row 0: top_k must be >= 0 \(0 = off\), got -2"),
        ({"top_p": 1.5}, r"row 0: top_p must be in \[0, 1\], got 1.5"),
        ({"min_p": -0.1}, r"row 0: min_p must be in \[0, 1\], got -0.1"),
        ({"repetition_penalty": 0.0}, r"row 0: repetition_penalty must be a finite number > 0, got 0"),
        ({"num_logprobs": -3}, r"row 0: num_logprobs must be >= 0, or -1 for none, got -3"),
        ({"history": [[1], [1, VOCAB]]}, r"row 1: history has token 1000, the vocabulary only 1000"),
        ({"history": [[1], [-1]]}, r"row 1: history has token -1"),
        ({"history": [[1]]}, r"history: expected one array for each of 2 rows, got 1"),
    ],
)
def test_bad_parameters_are_named(change: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        sample(np.zeros((2, VOCAB)), **change)


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, "row 1: the logits have a NaN"), (np.inf, r"row 1: the logits have a \+inf")],
)
@pytest.mark.parametrize("position", [0, 500, VOCAB - 1])
def test_bad_logits_are_named(value: float, message: str, position: int):
    rows = np.zeros((2, VOCAB), np.float32)
    rows[1, position] = value
    with pytest.raises(ValueError, match=message):
        sample(rows, temperature=0)
    with pytest.raises(ValueError, match="row 0: all logits are -inf"):
        sample(np.full((1, VOCAB), -np.inf))


def test_bad_arrays_are_named():
    good = {name: np.full(2, value, dtype) for name, (dtype, value) in DEFAULTS.items()}
    good |= {"logits": np.zeros((2, VOCAB), np.float32), "history": [np.zeros(0, np.int32)] * 2}
    tk.sample(**good)
    for change, kind, message in [
        ({"logits": np.zeros((2, VOCAB))}, ValueError, "logits: expected float32 .*float64 .2, 1000."),
        ({"logits": np.zeros(VOCAB, np.float32)}, ValueError, "logits: expected float32 with 2 dimension"),
        ({"logits": np.zeros((2, 2 * VOCAB), np.float32)[:, ::2]}, ValueError, "logits: not contiguous"),
        ({"logits": "text"}, TypeError, "logits: expected an array of float32, got str"),
        ({"logits": np.zeros((2, 0), np.float32)}, ValueError, "the vocabulary is empty"),
        ({"top_k": np.zeros(2, np.int64)}, ValueError, "top_k: expected int32"),
        (
            {"top_p": np.ones(3, np.float32)},
            ValueError,
            "top_p: expected one value for each of 2 rows",
        ),
        ({"seeds": 1}, TypeError, "seeds: expected an array of uint64, got int"),
        ({"history": 5}, TypeError, "history: expected a list"),
        ({"history": [[1], [2]]}, TypeError, r"history\[0\]: expected an array of int32, got list"),
    ]:
        with pytest.raises(kind, match=message):
            tk.sample(**good | change)


def test_no_rows():
    tokens, logprobs, top_tokens, _ = sample(np.zeros((0, VOCAB)))
    assert (len(tokens), len(logprobs), len(top_tokens)) == (0, 0, 0)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_large_vocabulary_takes_less_than_a_few_milliseconds(scale: float):
    """A wide guard against something quadratic; benchmarks have the times."""
    rows = np.stack([random_row(seed, 128_256, scale) for seed in range(4)])
    for options in [{"temperature": 0.0, "num_logprobs": 1}, {"top_p": 0.95}, {"top_k": 50}, {"min_p": 0.05}]:
        times_s = []
        for _ in range(5):
            start = time.thread_time()
            sample(rows, **options)
            times_s.append(time.thread_time() - start)
        assert min(times_s) / len(rows) < 5e-3


@pytest.mark.parametrize("spread", [1e-45, 1e-40, 1e-36, 1e-30, 1e30, 3.4e38])
@pytest.mark.parametrize("options", [{"top_p": 0.5}, {"top_p": 0.5, "top_k": 100}, {"min_p": 0.5}, {}])
def test_logits_of_any_range_give_tokens_of_the_vocabulary(spread: float, options: dict[str, float]):
    """Between logits that differ in a denormal lies no bin of a histogram, nor between those at both ends."""
    row = (random_row(5, scale=1.0).clip(-1, 1) * np.float64(spread)).astype(np.float32)
    for temperature in (2e-5, 1.0, 100.0):
        tokens = draws(row, 50, temperature=temperature, **options)
        assert ((tokens >= 0) & (tokens < len(row))).all()


def test_a_vocabulary_of_a_million_equal_logits():
    """More than 2^19 tokens: sums of masses are no longer exact, a draw still ends inside."""
    tokens = draws(np.zeros(1_000_001, np.float32), 8)
    assert ((tokens >= 0) & (tokens < 1_000_001)).all()
