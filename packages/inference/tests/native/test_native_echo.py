"""Prompts given out with the log-probabilities of their tokens, beside the little model's formula."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.native.async_engine import AsyncNativeEngine
from wrinklefree_inference.native.restarts import Restarts
from wrinklefree_inference.options import QueueOptions


@pytest.fixture
def answers(toy):
    """Deltas of several requests that run together, and the engine's preemptions."""

    def run(requests, num_pages=64, **limits):
        async def read(stream):
            return [delta async for delta in stream]

        async def main():
            engine = AsyncNativeEngine(
                toy.make_model(num_pages), QueueOptions(**limits), restarts=Restarts(())
            )
            try:
                streams = [toy.submit(engine, request) for request in requests]
                found = await asyncio.gather(*map(read, streams))
                return found, engine.stats()
            finally:
                await engine.close()

        return asyncio.run(main())

    return run


def expected_logprobs(toy, prompt):
    """Log-probabilities [n - 1, vocabulary] of what follows each token but the last."""
    values, rows = [], []
    for token in prompt[:-1]:
        values.append(toy.value_of(token, values))
        logits = toy.logits_of(values).astype(np.float64)
        rows.append(logits - np.logaddexp.reduce(logits))
    return np.array(rows)


def check(toy, request, deltas):
    """Everything of the prompt once and in order, then the answer."""
    prompt, num_top = list(request.prompt_ids), request.sampling.logprobs
    entries = [entry for delta in deltas for entry in delta.logprobs]
    assert [entry.token_id for entry in entries][: len(prompt)] == prompt
    assert entries[0].logprob is None
    expected = expected_logprobs(toy, prompt)
    for entry, row in zip(entries[1:], expected, strict=False):
        assert entry.logprob == pytest.approx(row[entry.token_id], abs=1e-5)
        assert [top[0] for top in entry.top] == np.argsort(-row, kind="stable")[:num_top].tolist()
        for other, _, _, value in entry.top:
            if other == entry.token_id:
                assert value == entry.logprob  # who asks whether it was the best one compares them
    drawn, reason = toy.run_alone(request)
    found = [entry.token_id for entry in entries[len(prompt) :]]
    assert found == drawn + [toy.EOS] * (reason == "stop")
    assert deltas[-1].finish_reason == reason
    text = b"".join(toy.TOKEN_BYTES[i] for i in prompt).decode("utf-8", "replace")
    assert "".join(delta.text for delta in deltas).startswith(text)


def test_a_prompt_in_several_steps(answers, toy):
    request = toy.make_request(
        [*range(9, 60)] * 3, max_tokens=5, logprobs=3, echo=True, temperature=0.0, ignore_eos=True
    )
    (deltas,), stats = answers([request], max_batch_tokens=40)
    assert stats.steps_total == 8  # 153 prompt tokens in four, then four more tokens
    check(toy, request, deltas)


def test_beside_others_with_too_few_pages(answers, toy):
    """A preempted prompt is computed again and not told twice."""
    requests = [
        toy.make_request(
            [9 + i, *range(9, 64), *range(9, 64)],
            client=str(i),
            max_tokens=60,
            logprobs=1,
            echo=i != 1,
            seed=i,
            ignore_eos=True,
        )
        for i in range(4)
    ]
    found, stats = answers(requests, num_pages=10, max_batch_tokens=48)
    assert stats.preemptions_total > 0
    for request, deltas in zip(requests, found, strict=True):
        if request.sampling.echo:
            check(toy, request, deltas)


def test_the_text_alone_comes_from_the_cache_too(answers, toy):
    prompt = [*range(9, 60)] * 2
    requests = [toy.make_request(prompt, max_tokens=2, echo=True, seed=1, ignore_eos=True)] * 2
    found, stats = answers(requests)
    assert stats.prefix_hit_tokens_total > 0
    text = b"".join(toy.TOKEN_BYTES[i] for i in prompt).decode()
    for deltas in found:
        assert deltas[0].text == text
        assert not any(delta.logprobs for delta in deltas)


@pytest.mark.parametrize("logprobs", [None, 2])
def test_prompts_without_an_answer(answers, toy, logprobs):
    """They end with their last token, and answers beside them are what they are alone."""
    options = {"max_tokens": 0, "echo": True, "logprobs": logprobs}
    prompts = [[*range(9, 60)] * 3, [9], list(range(9, 41))]
    requests = [toy.make_request(prompt, **options) for prompt in prompts]
    other = toy.make_request([9, 10, 11], max_tokens=12, seed=1, ignore_eos=True)
    (*found, beside), stats = answers([*requests, other], max_batch_tokens=40)
    for prompt, deltas in zip(prompts, found, strict=True):
        assert deltas[-1].finish_reason == "length"
        assert (deltas[-1].completion_tokens, deltas[-1].prompt_tokens) == (0, len(prompt))
        text = b"".join(toy.TOKEN_BYTES[i] for i in prompt).decode("utf-8", "replace")
        assert "".join(delta.text for delta in deltas) == text
        entries = [entry for delta in deltas for entry in delta.logprobs]
        assert [entry.token_id for entry in entries] == (prompt if logprobs else [])
        rows = expected_logprobs(toy, prompt)
        for entry, row in zip(entries[1:], rows, strict=bool(logprobs)):
            assert entry.logprob == pytest.approx(row[entry.token_id], abs=1e-5)
    assert [i for delta in beside for i in delta.token_ids] == toy.run_alone(other)[0]
    assert (stats.generated_tokens_total, stats.kv_pages_used, stats.running) == (12, 0, 0)


def test_an_end_at_once_is_listed(answers, toy):
    """Readers take the last entry for the token that they asked for (lm-eval)."""
    seeds = iter(range(1000))
    request = next(
        r
        for r in (
            toy.make_request([9, 10, 11], max_tokens=1, logprobs=0, echo=True, seed=s, temperature=8.0)
            for s in seeds
        )
        if toy.run_alone(r) == ([], "stop")
    )
    (deltas,), _ = answers([request])
    check(toy, request, deltas)


def test_a_row_without_numbers_ends_that_answer_alone(answers, toy, monkeypatch):
    plain = toy.sample

    def refusing(logits, *arguments, **named):
        if len(logits) > 2:
            raise ValueError("row 0: a logit is NaN")
        return plain(logits, *arguments, **named)

    monkeypatch.setattr(toy, "sample", refusing)
    good = toy.make_request([9, 10], max_tokens=2, seed=1, ignore_eos=True)
    bad = toy.make_request(range(9, 20), max_tokens=2, logprobs=0, echo=True, seed=1)
    (deltas,), _ = answers([good])
    assert deltas[-1].finish_reason == "length"
    with pytest.raises(EngineError, match="a logit is NaN"):
        answers([bad])
