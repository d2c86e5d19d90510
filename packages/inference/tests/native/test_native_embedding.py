"""Embeddings of prompts in the engine, beside the little model's own states."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from wrinklefree_inference.native.async_engine import AsyncNativeEngine
from wrinklefree_inference.native.embedding import normalized
from wrinklefree_inference.native.request import AnswerFailed, RequestTooLong
from wrinklefree_inference.options import QueueOptions


@pytest.fixture
def engine_runs(toy):
    """Last deltas of several requests that run together, and what is known of the engine then."""

    def run(requests, num_pages=64, spoil=None, **limits):
        async def main():
            model = toy.make_model(num_pages)
            if spoil is not None:
                model.runner.hidden_states = spoil
            engine = AsyncNativeEngine(model, QueueOptions(**limits))
            try:
                streams = [toy.submit(engine, request) for request in requests]
                found = await asyncio.gather(*map(_last, streams), return_exceptions=True)
                return found, engine.stats()
            finally:
                await engine.close()

        return asyncio.run(main())

    return run


async def _last(stream):
    *_, last = [delta async for delta in stream]
    return last


def expected(toy, prompt):
    """The embedding by the formula, in one go: float32 of the mean, made to have length 1."""
    values = []
    for token in prompt:
        values.append(toy.value_of(token, values))
    mean = np.mean([toy.state_of(value).astype(np.float64) for value in values], axis=0)
    return (mean / np.linalg.norm(mean)).astype(np.float32)


def check(toy, request, delta):
    found = np.frombuffer(delta.embedding, "<f4")
    np.testing.assert_allclose(found, expected(toy, request.prompt_ids), rtol=0, atol=1e-6)
    assert (delta.text, delta.finish_reason, delta.completion_tokens) == ("", "stop", 0)
    assert delta.prompt_tokens == len(request.prompt_ids)


@pytest.mark.parametrize("num_tokens", [1, 32, 33, 150])
def test_the_mean_of_all_tokens(toy, engine_runs, num_tokens):
    request = toy.make_request([9 + i % 50 for i in range(num_tokens)], embeds=True)
    (delta,), stats = engine_runs([request], max_batch_tokens=40)
    check(toy, request, delta)
    assert stats.kv_pages_used == 0
    assert stats.generated_tokens_total == 0


def test_to_the_bit_beside_others_with_too_few_pages(toy, engine_runs):
    """Streams push the prompts out of the cache; their sums are kept and nothing counts twice."""
    prompts = [[9 + k, *range(9, 60), *range(9, 60)] for k in range(6)]
    requests = [
        toy.make_request(prompt, client=str(k), embeds=k % 2 == 0, max_tokens=60, seed=k, ignore_eos=True)
        for k, prompt in enumerate(prompts)
    ]
    together, stats = engine_runs(requests, num_pages=10, max_batch_tokens=24, max_running=6)
    assert stats.preemptions_total > 0
    for request, delta in zip(requests, together, strict=True):
        if request.embeds:
            check(toy, request, delta)
            (alone,), _ = engine_runs([request])
            assert alone.embedding == delta.embedding
    assert together[1].completion_tokens == 60


def test_what_the_cache_has_is_computed_again(toy, engine_runs):
    """Its states are in no cache; its keys and values are, for others."""
    request = toy.make_request(range(9, 60), embeds=True)
    other = toy.make_request(range(9, 60), max_tokens=1, seed=1, ignore_eos=True)
    (first, second, answer), stats = engine_runs([request, request, other], max_running=1)
    assert first.embedding == second.embedding
    assert (first.cached_prompt_tokens, second.cached_prompt_tokens) == (0, 0)
    assert answer.cached_prompt_tokens == 32
    assert stats.prefix_hit_tokens_total == 32


def test_a_prompt_may_fill_the_context_and_no_more(toy, engine_runs):
    whole = toy.make_request([9] * 1024, embeds=True)
    (delta,), _ = engine_runs([whole])
    check(toy, whole, delta)
    with pytest.raises(RequestTooLong, match="1025 prompt tokens"):
        engine_runs([toy.make_request([9] * 1025, embeds=True)])


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_states_without_a_length_end_that_request_alone(toy, engine_runs, value):
    def spoil(rows):
        return np.full((len(rows), toy.HIDDEN), value, np.float32)

    good = toy.make_request([9, 10], max_tokens=2, seed=1, ignore_eos=True)
    (failed, delta), stats = engine_runs([toy.make_request([9, 10], embeds=True), good], spoil=spoil)
    assert isinstance(failed, AnswerFailed)
    assert "no embedding" in str(failed)
    assert delta.completion_tokens == 2
    assert stats.kv_pages_used == 0


def test_normalized():
    assert np.frombuffer(normalized(np.array([3.0, -4.0])), "<f4").tolist() == pytest.approx([0.6, -0.8])
    assert normalized(np.zeros(3)) is None
