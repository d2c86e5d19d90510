"""Draws of the logits within reach are those of all logits."""

import numpy as np
import pytest

import ternary_kernels as tk
from wrinklefree_inference.native.draw_params import DrawParams
from wrinklefree_inference.native.reach import reach_of
from wrinklefree_inference.native.speculation.record import Guess

VOCAB = 5000
SCREENED = [
    {"temperature": 0.0},
    {"temperature": 0.0, "top_p": 0.5},
    {"temperature": 1.3, "top_k": 1},
    {"temperature": 0.8, "top_k": 40},
    {"temperature": 1.5, "top_k": 17, "top_p": 0.9, "min_p": 0.1},
    {"temperature": 1.0, "min_p": 0.05},
    {"temperature": 2.0, "min_p": 1.0},
    {"temperature": 0.2, "min_p": 1e-6},
]
FULL = [
    {"temperature": 1.0},
    {"temperature": 0.7, "top_p": 0.95},
    {"temperature": 0.7, "top_p": 0.95, "min_p": 0.1},
    {"temperature": 0.0, "logprobs": 0},
    {"temperature": 0.0, "repetition_penalty": 1.1},
    {"temperature": 0.0, "presence_penalty": 0.5},
    {"temperature": 0.0, "frequency_penalty": -0.5},
    {"temperature": 0.0, "logit_bias": ((3, 1.0),)},
]


@pytest.fixture
def sequence_of(toy):
    model = toy.make_model()
    return lambda **rules: model.new_sequence(toy.make_request([1, 2], **rules), None)


@pytest.mark.parametrize("rules", SCREENED)
def test_draws_are_the_same(toy, sequence_of, rules):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (200, VOCAB)).astype(np.float32)
    logits[::2] = logits[::2].round(1)  # with equal ones
    drawn = [sequence_of(seed=seed, **rules) for seed in range(len(logits))]
    arguments = DrawParams(drawn).arguments({})
    counts, depths = reach_of(drawn)
    within = toy.within_reach(logits.copy(), counts, depths)
    assert (within > -np.inf).mean() < 0.1, "the reach asks for what is not needed"
    np.testing.assert_array_equal(tk.sample(within, **arguments)[0], tk.sample(logits, **arguments)[0])


@pytest.mark.parametrize("rules", FULL)
def test_what_needs_all_logits_has_no_reach(sequence_of, rules):
    assert reach_of([sequence_of(temperature=0.0)]) is not None
    assert reach_of([sequence_of(temperature=0.0), sequence_of(**rules)]) is None


def test_a_constraint_and_an_empty_step_have_none(toy, sequence_of):
    assert reach_of([]) is None
    constrained = toy.make_model().new_sequence(
        toy.make_request([1], constraint=object(), temperature=0.0), None
    )
    assert reach_of([constrained]) is None


def test_guesses_have_rows_of_their_own(sequence_of):
    first, second = sequence_of(temperature=0.0), sequence_of(temperature=1.0, top_k=7)
    second.guesses.begin(Guess((4, 5), (0.5, 0.5)), 2)
    counts, depths = reach_of([first, second])
    assert counts.tolist() == [1, 7, 7, 7]
    assert depths.tolist() == [0, 0, 0, 0]
