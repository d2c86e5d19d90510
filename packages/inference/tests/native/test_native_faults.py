"""What one request or one failed step may do to the others: nothing, or end them once and begin anew."""

import asyncio
import time
from dataclasses import replace

import numpy as np
import pytest

import ternary_kernels as tk
from wrinklefree_inference.engines.native import NativeEngine
from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.native.async_engine import AsyncNativeEngine
from wrinklefree_inference.native.request import AnswerFailed
from wrinklefree_inference.native.restarts import Restarts
from wrinklefree_inference.options import QueueOptions
from wrinklefree_inference.sampling_bounds import BOUNDS

POISON_TOKEN = 63
"""A prompt that has it twice in a row gets the bad logits."""


class Poisoned:
    """The little model's decoder, whose logits are spoilt for prompts with two `POISON_TOKEN`."""

    def __init__(self, runner, spoil):
        self.runner, self.spoil = runner, spoil
        self.num_pages = runner.num_pages

    def forward(self, tokens, starts, contexts, pages, outputs, reach=None):
        logits = self.runner.forward(tokens, starts, contexts, pages, outputs, reach)
        for row, output in enumerate(outputs.tolist()):
            begin = starts[np.searchsorted(starts, output, side="right") - 1]
            if (tokens[begin : output + 1] == POISON_TOKEN).sum() == 2:
                self.spoil(logits[row])
        return logits


def serve(toy, scenario, sample=None, spoil=None, limits=None, **engine_options):
    async def main():
        model = toy.make_model()
        fields = {"sample": sample or model.sample}
        if spoil is not None:
            fields["runner"] = Poisoned(model.runner, spoil)
        engine = AsyncNativeEngine(replace(model, **fields), limits, **engine_options)
        try:
            async with asyncio.timeout(30):
                return await scenario(engine)
        finally:
            await engine.close()

    return asyncio.run(main())


async def tokens_of(toy, engine, request):
    return [i async for delta in toy.submit(engine, request) for i in delta.token_ids]


async def outcome(toy, engine, request):
    try:
        return await tokens_of(toy, engine, request)
    except EngineError as error:
        return error


def others(toy, count=5):
    """Requests of all kinds that have nothing to do with the bad one."""
    return [
        toy.make_request(
            [9 + i, 20, 30 + i],
            max_tokens=40,
            seed=i,
            temperature=0.4 * i,
            repetition_penalty=1 + 0.1 * i,
            logprobs=i % 2,
            ignore_eos=True,
        )
        for i in range(count)
    ]


def nan_somewhere(row):
    row[17] = np.nan


def infinite(row):
    row[3] = np.inf


def nothing_allowed(row):
    row[:] = -np.inf


def overflows_under_a_penalty(row):
    row[:] = -1e30
    row[POISON_TOKEN] = 3e38


SPOILERS = [nan_somewhere, infinite, nothing_allowed, overflows_under_a_penalty]


@pytest.mark.parametrize("spoil", SPOILERS)
def test_bad_logits_of_one_row_end_that_answer_alone(toy, spoil):
    """With the real sampler: the others' tokens are those that they have without the bad request."""
    bad = toy.make_request([11, POISON_TOKEN, POISON_TOKEN], max_tokens=40, seed=1, repetition_penalty=0.05)

    async def scenario(engine):
        expected = await asyncio.gather(*(tokens_of(toy, engine, one) for one in others(toy)))
        found = await asyncio.gather(*(outcome(toy, engine, one) for one in [bad, *others(toy)]))
        return expected, found, engine.stats()

    expected, (failed, *found), stats = serve(toy, scenario, sample=tk.sample, spoil=spoil)
    assert isinstance(failed, AnswerFailed)
    assert "no token can be drawn after 0 of the answer: " in str(failed)
    assert found == expected
    assert all(len(tokens) == 40 for tokens in found)
    assert (stats.healthy, stats.restarts_total, stats.running, stats.kv_pages_used) == (True, 0, 0, 0)


@pytest.mark.parametrize(
    "options",
    [
        {name: value}
        for name, bounds in BOUNDS.items()
        if name not in ("max_tokens", "logprobs", "threshold", "sub_block")
        for value in (bounds.minimum, bounds.maximum, 1e-46, 1e-44, 1e-38, 0.5)
        if value in bounds and (name not in ("seed", "top_k") or isinstance(value, int))
    ],
    ids=str,
)
def test_what_is_within_the_bounds_is_drawn(toy, options):
    """The real sampler takes every value that the bounds let through."""

    async def scenario(engine):
        request = toy.make_request([9, 10, 11], max_tokens=8, ignore_eos=True, **options)
        return await tokens_of(toy, engine, request), engine.stats()

    tokens, stats = serve(toy, scenario, sample=tk.sample)
    assert len(tokens) == 8
    assert stats.healthy


@pytest.mark.parametrize("fault", [RuntimeError("it burns"), MemoryError(), KeyError(3), ZeroDivisionError()])
def test_the_engine_begins_anew_after_a_failed_step(toy, caplog, fault):
    """What had begun ends with the reason, what waits is answered, what comes later too."""
    running, waiting, later = others(toy, 3)

    async def scenario(engine):
        runner, forward = engine._core.runner, engine._core.runner.forward
        calls = []

        def failing(*arrays):
            calls.append(1)
            if len(calls) == 6:
                raise fault
            return forward(*arrays)

        runner.forward = failing
        first = asyncio.gather(*(outcome(toy, engine, one) for one in (running, waiting)))
        ended, answered = await first
        return ended, answered, await tokens_of(toy, engine, later), engine.stats()

    ended, answered, after, stats = serve(toy, scenario, limits=QueueOptions(1, 5, 8, 4))
    assert isinstance(ended, EngineError)
    assert type(fault).__name__ in str(ended)
    assert "begins anew" in str(ended)
    assert [answered, after] == [toy.run_alone(one)[0] for one in (waiting, later)]
    assert (stats.healthy, stats.error) == (True, None)
    assert (stats.restarts_total, stats.last_error) == (1, type(fault).__name__)
    assert stats.requests_total == 3
    assert stats.kv_pages_used == 0
    assert "the engine begins anew" in caplog.text


def test_an_engine_that_fails_again_and_again_stops(toy, caplog):
    async def scenario(engine):
        engine._core.runner.fail_at = 1
        outcomes = [await outcome(toy, engine, others(toy, 1)[0]) for _ in range(3)]
        stats = engine.stats()
        with pytest.raises(EngineError, match="restart it"):
            toy.submit(engine, others(toy, 1)[0])
        return outcomes, stats

    start_s = time.monotonic()
    outcomes, stats = serve(toy, scenario, restarts=Restarts((0.0, 0.2)))
    assert all("the cache is on fire" in str(one) for one in outcomes)
    assert time.monotonic() - start_s >= 0.2
    assert (stats.healthy, stats.restarts_total, stats.last_error) == (False, 2, "RuntimeError")


def test_a_completed_answer_ends_the_row_of_failures():
    restarts = Restarts((0.0, 1.0))
    error = ValueError()
    assert [restarts.pause_after(error) for _ in range(3)] == [0.0, 1.0, None]
    restarts.note_success()
    assert restarts.pause_after(error) == 0.0
    assert restarts.num_total == 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_of_bad_logits_are_refused(toy, value):
    """A perplexity of NaN would look like a result."""
    model = toy.make_model()

    def spoil(row):
        row[5 if value != -np.inf else slice(None)] = value

    poisoned = replace(model, runner=Poisoned(model.runner, spoil))
    with NativeEngine(poisoned) as engine:
        assert len(engine.score([9, 10, 11]).logprobs) == 2
        with pytest.raises(EngineError, match="logits are not finite"):
            engine.score([POISON_TOKEN, POISON_TOKEN, 11], start=2)
