"""Chance and speculation: answers are distributed as the model says, and the same whatever comes and goes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from guessing import FixedCosts, Oracle, prompt_of, with_costs
from hypothesis import given, settings
from hypothesis import strategies as st

import ternary_kernels as tk
from wrinklefree_inference.options import QueueOptions

LOGITS = np.array([0.0, 1.0, 2.0, -1.0, 0.5], np.float32)


class ToyOfFive:
    """Logits that depend on the last token alone."""

    def __init__(self, num_pages):
        self.num_pages = num_pages

    def forward(self, tokens, starts, contexts, pages, outputs, reach=None):
        return np.stack([np.roll(LOGITS, int(tokens[row])) for row in outputs])


@pytest.mark.parametrize(
    ("guessed", "way", "most"),
    [((2, 4), {"temperature": 1.0}, 51.2), ((3, 0), {"temperature": 1.3, "top_k": 4}, 37.7)],
)
def test_answers_are_distributed_as_the_model_says(toy, guessed, way, most):
    """Chi-square of pairs of tokens, guessed alike every time, with the kernels' sampler.

    `most` is exceeded once in 1,000 times with 24 and 15 degrees of freedom; the seeds are fixed.
    """
    num = 1000
    model = replace(toy.make_model(), runner=ToyOfFive(num), sample=tk.sample, vocab_size=5)
    oracle = Oracle({"r": list(guessed)}, 9)
    core = replace(model, new_guesser=lambda: oracle).new_core(QueueOptions(16, num, 4096, 64))
    core._speculator._step_costs = FixedCosts(lambda sizes: np.ones(len(sizes)))
    sequences = [
        model.new_sequence(toy.make_request([1], seed=seed, max_tokens=3, ignore_eos=True, **way), None)
        for seed in range(num)
    ]
    for sequence in sequences:
        core.scheduler.add(sequence)
    while core.scheduler.has_work:
        core.step()
    assert core.counters.guessed_tokens > num
    pairs = np.zeros((5, 5))
    for sequence in sequences:
        pairs[tuple(sequence.answer[:2])] += 1
    expected = probabilities(1, way)[:, None] * np.stack([probabilities(i, way) for i in range(5)])
    possible = expected > 0
    assert not pairs[~possible].any()
    assert np.count_nonzero(possible) == (25 if "top_k" not in way else 16)
    assert ((pairs - num * expected)[possible] ** 2 / (num * expected[possible])).sum() < most


def probabilities(last, way):
    """Softmax of the model's logits at a temperature, of the best k."""
    scores = np.exp(np.roll(LOGITS, last).astype(float) / way["temperature"])
    scores[np.argsort(-scores)[way.get("top_k", 5) :]] = 0
    return scores / scores.sum()


REQUEST = st.fixed_dictionaries(
    {
        "prompt": st.builds(prompt_of, st.integers(1, 70), st.integers(0, 2)),
        "max_tokens": st.integers(1, 45),
        "client": st.sampled_from("ab"),
        "seed": st.integers(0, 3),
        "temperature": st.sampled_from([0.0, 0.7, 1.3]),
        "repetition_penalty": st.sampled_from([1.0, 1.4]),
        "ignore_eos": st.booleans(),
    }
)


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(REQUEST, st.integers(0, 20), st.none() | st.integers(0, 15)), min_size=1, max_size=6),
    st.integers(6, 14),
    st.integers(0, 9),
    st.sampled_from([QueueOptions(4, 9, 24, 7), QueueOptions(2, 9, 8, 3), QueueOptions(8, 9, 64, 64)]),
    st.sampled_from([None, 0.8]),
)
def test_whatever_is_guessed_an_answer_is_the_same(toy, requests, num_pages, run, limits, expectation):
    """Random arrivals and cancellations, shared prefixes, too few pages, guesses right now and then."""
    oracle = Oracle({}, run, expectation)
    bench = with_costs(toy.Bench(num_pages, limits, new_guesser=lambda: oracle))
    arriving, leaving, kept = defaultdict(list), defaultdict(list), []
    for index, (options, arrives, leaves_after) in enumerate(requests):
        oracle.answers[str(index)] = toy.run_alone(toy.make_request(**options))[0]
        arriving[arrives].append((options | {"name": str(index)}, leaves_after))
    for step in range(2000):
        for options, leaves_after in arriving.pop(step, ()):
            sequence = bench.add(**options)
            (kept if leaves_after is None else leaving[step + leaves_after]).append(sequence)
        for sequence in leaving.pop(step, ()):
            if sequence in bench.live:
                bench.cancel(sequence)
        if bench.scheduler.has_work:
            bench.step()
        elif not (arriving or leaving):
            break
    assert not bench.live
    assert bench.scheduler.cache.num_used == 0
    for sequence in kept:
        bench.check_answer(sequence)
