"""What guesses, and what decides how much of it is computed."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wrinklefree_inference.native.pages import PAGE_TOKENS
from wrinklefree_inference.native.speculation.draft import CHUNK_TOKENS, DraftGuesser
from wrinklefree_inference.native.speculation.lengths import KEPT_SPEED, lengths_of
from wrinklefree_inference.native.speculation.ngram import LONGEST, SHORTEST, guess_after
from wrinklefree_inference.native.speculation.record import Guess, GuessRecord
from wrinklefree_inference.native.speculation.speculator import TRUSTING_STEPS
from wrinklefree_inference.native.speculation.step_costs import KEPT_STEPS, StepCosts
from wrinklefree_inference.options import QueueOptions

LIMITS = QueueOptions(8, 100, 64, 16)


def prompt_of(length, kind=0):
    return [9 + (kind * 17 + i * i) % 50 for i in range(length)]


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


def draft_bench(toy, runner, num_pages=32, context_tokens=1024, limits=LIMITS, own_vocab=64):
    guessers = []

    def new():
        guessers.append(DraftGuesser(runner, context_tokens, toy.sample, toy.VOCAB, own_vocab))
        return guessers[-1]

    return toy.Bench(num_pages, limits, new_guesser=new), guessers


def as_good_as_free(bench):
    """Whatever the clock says, a step with all guesses is the fastest."""
    for costs in (bench.core._speculator._step_costs, bench.core._speculator._guess_costs):
        costs.seconds = lambda sizes: np.full(len(sizes), 1e-3)
    return bench


WAYS = [{"temperature": 0.0}, {"temperature": 1.0, "top_k": 9}, {"temperature": 1.4, "top_p": 0.8}]


@pytest.mark.parametrize("way", WAYS)
def test_the_model_itself_guesses_what_it_draws(toy, way):
    """Also what it samples: both draw with the numbers of the same seed and place."""
    bench, _ = draft_bench(toy, toy.ToyRunner(32))
    as_good_as_free(bench)
    sequences = [
        bench.add(prompt_of(30 + i, i), max_tokens=52, seed=i, ignore_eos=True, **way) for i in range(3)
    ]
    bench.run()
    for sequence in sequences:
        bench.check_answer(sequence)
        assert bench.last[sequence].refused_guesses == 0
    assert bench.core.counters.accepted_tokens == bench.core.counters.guessed_tokens >= 3 * 40


def other_runner(toy, num_pages):
    """A model that often says something else."""

    class Other(toy.ToyRunner):
        def forward(self, tokens, starts, contexts, pages, outputs):
            logits = super().forward(tokens, starts, contexts, pages, outputs)
            differs = tokens[outputs] % 3 == 0
            logits[differs] = np.roll(logits[differs], 1, axis=1)
            return logits

    return Other(num_pages)


@pytest.mark.parametrize("num_pages", [32, 6])
@pytest.mark.parametrize(
    "way", [*WAYS, {"temperature": 1.0, "repetition_penalty": 1.5, "presence_penalty": 1.0}]
)
def test_a_quite_different_model_changes_nothing(toy, way, num_pages):
    """Also where its cache is too small for all, and theirs."""
    requests = [
        {"prompt": prompt_of(30, i), "max_tokens": 40, "seed": i, "ignore_eos": True, "logprobs": 1, **way}
        for i in range(4)
    ]
    plain = toy.Bench(num_pages + 2, LIMITS)
    bench, guessers = draft_bench(toy, other_runner(toy, num_pages), num_pages + 2)
    as_good_as_free(bench)
    pairs = [(plain.add(**request), bench.add(**request)) for request in requests]
    plain.run()
    bench.run()
    for one, other in pairs:
        assert bench.tokens[other] == plain.tokens[one]
        assert bench.entries[other] == plain.entries[one]
    assert bench.core.counters.accepted_tokens < bench.core.counters.guessed_tokens
    assert bench.core.counters.accepted_tokens or "repetition_penalty" in way
    guessers[0].guess({})
    toy.check_pages(guessers[0]._cache, [])


def test_a_conversation_that_goes_on_is_not_computed_twice(toy):
    runner = other_runner(toy, 32)
    bench, guessers = draft_bench(toy, runner)
    as_good_as_free(bench)
    first = bench.add(prompt_of(100), max_tokens=60, seed=1, ignore_eos=True)
    bench.run()
    before = runner.num_tokens
    turn = bench.add([*prompt_of(100), *bench.tokens[first], 11], max_tokens=8, seed=2, ignore_eos=True)
    bench.run()
    bench.check_answer(turn)
    assert runner.num_tokens - before < PAGE_TOKENS + 1 + 8 * 16, (
        "161 tokens of text, of which 128 were there"
    )
    texts = [text.pages for text in guessers[0]._texts.values()]
    toy.check_pages(guessers[0]._cache, texts)


def test_refused_guesses_are_forgotten(toy):
    """It guesses as one that has never seen the text, after refusals and on pages that others left."""
    bench, guessers = draft_bench(toy, other_runner(toy, 32))
    as_good_as_free(bench)

    def is_as_fresh(sequence):
        fresh = DraftGuesser(other_runner(toy, 32), 1024, toy.sample, toy.VOCAB, 64)
        return guessers[0].guess({sequence: 6}) == fresh.guess({sequence: 6})

    first = bench.add(prompt_of(40), max_tokens=90, seed=1, temperature=0.0, ignore_eos=True)
    step = 0
    while first.num_generated < 70:
        step += 1
        if step % 3 == 0:  # beside a prompt nothing is guessed: the text goes on without the draft model
            bench.add([9, 10 + step], max_tokens=1)
        bench.step()
        if step % 4 == 0:
            assert is_as_fresh(first)
    assert bench.last[first].refused_guesses > 3
    bench.run()
    turn = bench.add([*prompt_of(40), *bench.tokens[first]], max_tokens=20, seed=1, ignore_eos=True)
    while not turn.num_generated:
        bench.step()
    assert is_as_fresh(turn)


def test_a_long_text_is_caught_up_with_in_chunks(toy):
    runner = toy.ToyRunner(32)
    bench, _ = draft_bench(toy, runner)
    as_good_as_free(bench)
    sequence = bench.add(prompt_of(600), max_tokens=30, seed=1, ignore_eos=True)
    bench.run()
    bench.check_answer(sequence)
    assert max(runner.batch_sizes) == CHUNK_TOKENS
    assert bench.last[sequence].accepted_guesses > 10


def test_a_text_beyond_the_draft_models_context_gets_no_guess(toy):
    runner = toy.ToyRunner(32)
    bench, _ = draft_bench(toy, runner, context_tokens=64)
    as_good_as_free(bench)
    sequence = bench.add(prompt_of(40), max_tokens=60, seed=1, ignore_eos=True)
    bench.run()
    bench.check_answer(sequence)
    assert 0 < bench.last[sequence].accepted_guesses <= 24


def test_logits_that_are_no_numbers_are_left_out_and_told_once(toy, caplog):
    class Broken(toy.ToyRunner):
        def forward(self, *arrays):
            return np.full_like(super().forward(*arrays), np.nan)

    def refusing(logits, **arguments):
        if np.isnan(logits).any():
            raise ValueError("row 0: a logit is not a number")
        return toy.sample(logits, **arguments)

    guesser = DraftGuesser(Broken(32), 1024, refusing, toy.VOCAB, 64)
    bench = as_good_as_free(toy.Bench(32, LIMITS, new_guesser=lambda: guesser))
    sequence = bench.add(prompt_of(9), max_tokens=20, seed=1, ignore_eos=True)
    with caplog.at_level(logging.WARNING):
        bench.run()
    bench.check_answer(sequence)
    assert [record.getMessage() for record in caplog.records] == [
        "the draft model's guesses are left out where it cannot draw: row 0: a logit is not a number"
    ]


@pytest.mark.parametrize("num_rows", [60, 64, 70])
def test_spare_rows_of_the_vocabularies_may_differ(toy, num_rows):
    """A draft model of fewer rows never says the others; of more, what the target lacks is no guess."""

    class Rows(toy.ToyRunner):
        def forward(self, tokens, *arrays):
            assert tokens.max() < num_rows, "a token that the draft model lacks"
            logits = super().forward(tokens, *arrays)
            wide = np.full((len(logits), 70), 50.0, np.float32)
            wide[:, :64] = logits
            return wide[:, :num_rows]

    bench, _ = draft_bench(toy, Rows(32), own_vocab=num_rows)
    as_good_as_free(bench)
    rules = {"temperature": 0.0, "logit_bias": ((63, 1.0),), "ignore_eos": True}
    sequence = bench.add(prompt_of(9), max_tokens=40, **rules)
    bench.run()
    plain = toy.Bench()
    expected = plain.add(prompt_of(9), max_tokens=40, **rules)
    plain.run()
    assert bench.tokens[sequence] == plain.tokens[expected]
    assert bench.last[sequence].accepted_guesses > 0 or 63 in bench.tokens[sequence]
    alien = bench.add([9, 63, 11], max_tokens=10, **rules)
    bench.run()
    assert (bench.last[alien].accepted_guesses > 0) == (num_rows > 63)


def test_a_draft_model_that_is_never_right_is_seldom_asked(toy):
    class Wrong(toy.ToyRunner):
        def forward(self, *arrays):
            return -super().forward(*arrays)

    runner = Wrong(64)
    bench, _ = draft_bench(toy, runner, 64)
    for costs, slope in (
        (bench.core._speculator._step_costs, 0.2),
        (bench.core._speculator._guess_costs, 0.1),
    ):
        costs.seconds = lambda size, slope=slope: 1 + slope * size
    sequence = bench.add(prompt_of(9), max_tokens=400, temperature=0.0, ignore_eos=True)
    bench.run()
    bench.check_answer(sequence)
    num_asked = bench.core.counters.guessed_tokens
    assert 0 < num_asked < 16 * (400 / TRUSTING_STEPS + 6)


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 70), st.integers(1, 40), st.integers(0, 12)), min_size=1, max_size=5)
)
def test_whatever_comes_and_goes_its_pages_are_accounted_for(toy, requests):
    bench, guessers = draft_bench(toy, other_runner(toy, 7), 12)
    as_good_as_free(bench)
    kept = []
    for index, (length, max_tokens, leaves_after) in enumerate(requests):
        sequence = bench.add(prompt_of(length, index % 2), max_tokens=max_tokens, seed=index)
        for _ in range(leaves_after):
            if bench.scheduler.has_work:
                bench.step()
            toy.check_pages(guessers[0]._cache, [text.pages for text in guessers[0]._texts.values()])
        if leaves_after % 3 == 2 and sequence in bench.live:
            bench.cancel(sequence)
        else:
            kept.append(sequence)
    bench.run()
    for sequence in kept:
        bench.check_answer(sequence)
