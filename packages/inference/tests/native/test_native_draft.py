"""A draft model guesses: what it computes and keeps, and what it lets go."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from guessing import LIMITS, prompt_of
from hypothesis import given, settings
from hypothesis import strategies as st

from wf_formats.kernel_sizes import PAGE_TOKENS
from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.native.async_engine import AsyncNativeEngine
from wrinklefree_inference.native.speculation.draft import CHUNK_TOKENS, DraftGuesser
from wrinklefree_inference.native.speculation.speculator import TRUSTING_STEPS


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
        def forward(self, tokens, starts, contexts, pages, outputs):
            logits = super().forward(tokens, starts, contexts, pages, outputs)
            logits[pages[:, 0] == 0] = np.nan  # of the text that came first
            return logits

    def refusing(logits, **arguments):
        if np.isnan(logits).any():
            raise ValueError("row 0: a logit is not a number")
        return toy.sample(logits, **arguments)

    guesser = DraftGuesser(Broken(32), 1024, refusing, toy.VOCAB, 64)
    bench = as_good_as_free(toy.Bench(32, LIMITS, new_guesser=lambda: guesser))
    broken, sound = (bench.add(prompt_of(9, i), max_tokens=20, seed=1, ignore_eos=True) for i in range(2))
    with caplog.at_level(logging.WARNING):
        bench.run()
    for sequence in (broken, sound):
        bench.check_answer(sequence)
    assert (bench.last[broken].accepted_guesses, bench.last[sound].refused_guesses) == (0, 0)
    assert bench.last[sound].accepted_guesses > 10, "one text's are no reason to leave out another's"
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


def test_nothing_is_kept_of_answers_that_have_ended(toy):
    """However they end, and though nothing is asked for after them: their tokens and pages are free."""

    def refusing(logits, **arguments):
        if any(seed == 13 for seed in arguments["seeds"]) and max(arguments["counters"]) > 5:
            raise ValueError("row 0: the logits have a NaN")
        return toy.sample(logits, **arguments)

    guesser = DraftGuesser(other_runner(toy, 32), 1024, toy.sample, toy.VOCAB, 64)
    model = replace(toy.make_model(32), sample=refusing, new_guesser=lambda: guesser)
    texts = []

    async def read(engine, seed, most):
        request = toy.make_request(prompt_of(40, seed), seed=seed, max_tokens=most, ignore_eos=True)
        stream = toy.submit(engine, request)
        with suppress(EngineError):  # of the one that fails
            async for delta in stream:
                if most == 99 and delta.completion_tokens > 9:
                    break
        await stream.aclose()

    async def main():
        engine = AsyncNativeEngine(model, LIMITS)
        submit = engine._worker.submit
        engine._worker.submit = lambda one: texts.append(weakref.ref(one.tokens)) or submit(one)
        try:
            for _ in range(2):  # a full length, a failure, one that leaves
                await asyncio.gather(read(engine, 1, 30), read(engine, 13, 30), read(engine, 3, 99))
                while engine.stats().running:
                    await asyncio.sleep(0.001)
                await asyncio.sleep(0.05)
                gc.collect()
                assert not guesser._texts
                assert guesser._cache.num_used == 0
                assert [text() for text in texts] == [None] * len(texts)
            return engine.stats()
        finally:
            await engine.close()

    stats = asyncio.run(main())
    assert (stats.requests_total, stats.finished_total, stats.cancelled_total) == (6, 2, 2)
    assert stats.guessed_tokens_total > 0
