"""What guesses from the text itself, and what decides how much of it is computed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wrinklefree_inference.native.speculation.lengths import KEPT_SPEED, lengths_of
from wrinklefree_inference.native.speculation.ngram import LONGEST, SHORTEST, guess_after
from wrinklefree_inference.native.speculation.record import Guess, GuessRecord
from wrinklefree_inference.native.speculation.step_costs import KEPT_STEPS, StepCosts


def following(text, most):
    """`guess_after` by trying every place."""
    best, start = SHORTEST - 1, None
    for end in range(1, len(text)):
        agreed = 0
        while agreed < min(LONGEST, end) and text[end - 1 - agreed] == text[-1 - agreed]:
            agreed += 1
        if agreed >= best and agreed >= SHORTEST:
            best, start = agreed, end
    if start is None:
        return []
    circle = text[start:]
    return [circle[i % len(circle)] for i in range(most)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(1, 8))
def test_a_text_goes_on_as_it_did_before(text, most):
    guess = guess_after(np.array(text, np.int32), most)
    assert list(guess.tokens) == following(text, most)
    assert len(guess.confidence) == len(guess.tokens)


def test_a_long_agreement_is_worth_more():
    words = list(range(20, 60))
    long = guess_after(np.array([*words, 1, 2, 3, *words[:20]], np.int32), 4)
    short = guess_after(np.array([*words, 1, 2, 3, *words[5:7]], np.int32), 4)
    assert (long.tokens, short.tokens) == ((40, 41, 42, 43), (27, 28, 29, 30))
    assert long.confidence[0] > short.confidence[0]
    assert short.confidence == tuple(sorted(short.confidence)), "the agreement grows with each right guess"


CHANCES = st.lists(st.floats(0.05, 1), max_size=4).map(lambda rates: list(np.cumprod(rates)))


@settings(max_examples=50, deadline=None)
@given(st.lists(CHANCES, min_size=1, max_size=3), st.floats(0, 0.5), st.integers(0, 9))
def test_no_stream_comes_off_worse(chances, slope, most):
    seconds = [1 + slope * num for num in range(most + 1)]
    lengths = lengths_of(chances, seconds)
    assert sum(lengths) <= most
    tokens = [1 + sum(one[:length]) for one, length in zip(chances, lengths, strict=True)]
    assert min(tokens) / seconds[sum(lengths)] >= KEPT_SPEED
    assert sum(tokens) / seconds[sum(lengths)] >= len(chances)


@pytest.mark.parametrize("rate", [0.3, 0.6, 0.9])
def test_a_lone_stream_guesses_as_far_as_it_pays(rate):
    chances = [rate**k for k in range(1, 17)]
    seconds = [1 + 0.2 * num for num in range(20)]
    (length,) = lengths_of([chances], seconds)
    speeds = [(1 + sum(chances[:k])) / (1 + 0.2 * k) for k in range(17)]
    assert length == int(np.argmax(speeds))
    assert lengths_of([chances], seconds[:2]) == [1]
    assert lengths_of([chances], [1 + rate * num for num in range(20)]) == [0], "it costs what it brings"


def test_costs_are_medians_of_what_was_seen():
    costs = StepCosts(slope=0.5)

    def seconds(*sizes):
        return costs.seconds(np.array(sizes)).tolist()

    assert not costs.is_known
    assert seconds(1, 3) == [1, 2]
    for once in (1.0, 1.1, 99.0):
        costs.note(1, once)
    assert seconds(1, 3) == pytest.approx([1.1, 2.2])
    costs.note(5, 2.1)
    assert seconds(1, 3, 5, 9) == pytest.approx([1.1, 1.6, 2.1, 2.1 * 5 / 3]), "between and beyond"
    for _ in range(KEPT_STEPS):
        costs.note(5, 2.1)
    assert seconds(1) == pytest.approx([2.1 / 3]), "what is long ago is forgotten"
    costs.note(1, 1.5)
    assert seconds(1) == [1.5]


def test_a_record_learns_how_often_guesses_are_right():
    record = GuessRecord()
    assert record.chances((0.5, 0.5)) == [0.5, 0.25]
    for _ in range(50):
        record.begin(Guess((1, 2, 3), (0.5, 0.9, 0.9)), 2)
        assert record.computed == (1, 2)
        record.note(1)
        assert record.is_ahead
        record.note(7)
        assert not record.is_ahead
    assert record.rate(0.5) > 0.9
    assert record.rate(0.9) < 0.2
    assert (record.num_accepted, record.num_refused) == (50, 50)
    for _ in range(50):
        record.begin(Guess((1,), (0.5,)))
        record.note(2)
        assert not record.is_ahead
    assert record.rate(0.5) < 0.2, "guesses that are not computed are judged too"
    assert (record.num_accepted, record.num_refused) == (50, 50)
