"""The native engine for commands: chat, completion and scores with the little model."""

import itertools
import sys
import threading
from queue import SimpleQueue
from types import SimpleNamespace

import numpy as np
import pytest

from wrinklefree_inference import ENGINES, EngineError, Sampling, Scorer, open_engine
from wrinklefree_inference.engines.native import NativeEngine
from wrinklefree_inference.native.loading import token_bytes_of
from wrinklefree_inference.native.scoring import CHUNK_TOKENS
from wrinklefree_inference.options import CacheOptions

GREEDY = Sampling(max_tokens=20, temperature=0.0)
QUESTION = [{"role": "user", "content": "hello"}]


@pytest.fixture
def engine(toy):
    with NativeEngine(toy.make_model(64)) as opened:
        yield opened
        cache = opened._worker.core.scheduler.cache
        opened.close()
        toy.check_pages(cache, [])


def test_it_is_registered_and_a_scorer(engine):
    assert ENGINES["native"].path.endswith(":NativeEngine")
    assert isinstance(engine, Scorer)
    assert (engine.facts.name, engine.facts.context_tokens) == ("toy", 1024)


def test_chat_and_complete(engine, toy):
    ids = engine.tokenize("hello")
    stream = engine.chat(QUESTION, GREEDY)
    text = stream.text()
    tokens, reason = toy.run_alone(toy.make_request([5, *ids, 6], max_tokens=20, temperature=0.0))
    assert text == toy.ToyTokenizer().decode(tokens)
    assert stream.usage.prompt_tokens == 7
    assert stream.usage.completion_tokens == len(tokens) + (reason == "stop")
    request = toy.make_request(ids, max_tokens=20, seed=3, temperature=1.5, top_p=0.9)
    answer = engine.complete("hello", Sampling(20, 1.5, 0.9, seed=3)).text()
    assert answer == toy.ToyTokenizer().decode(toy.run_alone(request)[0])


def test_an_unread_rest_is_cancelled(engine):
    stream = engine.complete("hello", Sampling(max_tokens=1000, temperature=1.0, seed=1))
    next(stream)
    del stream
    assert engine.complete("hello", GREEDY).text()


def test_the_answer_ends_with_the_context(toy):
    with NativeEngine(toy.make_model(num_pages=1)) as engine:
        stream = engine.complete("a" * 30, GREEDY)
        stream.text()
        assert stream.usage.completion_tokens <= 2
        with pytest.raises(
            EngineError, match="32 prompt tokens and an answer exceed the context of 32 tokens"
        ):
            engine.complete("a" * 32, GREEDY).text()


def expected_scores(toy, ids):
    values, logprobs, greedy = [], [], []
    for token, following in itertools.pairwise(ids):
        values.append(toy.value_of(token, values))
        logits = toy.logits_of(values).astype(float)
        logprobs.append(logits[following] - np.logaddexp.reduce(logits))
        greedy.append(logits.argmax() == following)
    return np.array(logprobs), np.array(greedy)


@pytest.mark.parametrize("length", [2, 33, 34, CHUNK_TOKENS + 1, CHUNK_TOKENS + 2, 300])
@pytest.mark.parametrize("start", [1, 32, 33, 140])
def test_scores(engine, toy, length, start):
    ids = [9 + i * i % 50 for i in range(length)]
    logprobs, greedy = expected_scores(toy, ids)
    for first in (1, min(start, length - 1), 1):
        scores = engine.score(ids, first)
        np.testing.assert_allclose(scores.logprobs, logprobs[first - 1 :], atol=1e-6)
        assert scores.is_greedy.tolist() == greedy[first - 1 :].tolist()


def test_a_shared_beginning_is_computed_once(engine):
    ids = [9 + i * i % 50 for i in range(100)]
    runner = engine._worker.core.runner
    engine.score(ids, 99)
    before = runner.num_tokens
    engine.score([*ids[:96], 9, 10], 97)
    assert runner.num_tokens - before == 1
    engine.score([*ids[:96], 9, 10], 96)
    assert runner.num_tokens - before == 1 + 33


def test_scores_beside_streams_that_fill_the_cache(toy):
    ids = [9 + i * i % 50 for i in range(120)]
    request = toy.make_request([17], max_tokens=90, temperature=1.0, seed=2)
    alone = toy.ToyTokenizer().decode(toy.run_alone(request)[0])
    with NativeEngine(toy.make_model(num_pages=6)) as engine:
        texts = []

        def talk():
            texts.append(engine.complete(toy.TOKEN_BYTES[17].decode(), Sampling(90, 1.0, 1.0, seed=2)).text())

        threads = [threading.Thread(target=talk) for _ in range(6)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            np.testing.assert_allclose(engine.score(ids).logprobs, expected_scores(toy, ids)[0], atol=1e-6)
        for thread in threads:
            thread.join()
    assert texts == [alone] * 6


def test_a_queue_does_not_starve_scores(toy):
    """No request is admitted while a score waits for pages."""
    with NativeEngine(toy.make_model(num_pages=6)) as engine:
        worker, events = engine._worker, SimpleQueue()
        engine._model.runner.delay_s = 0.0005
        for i in range(30):
            request = toy.make_request([9, 10 + i], max_tokens=20 + 7 * (i % 5), seed=i, ignore_eos=True)
            worker.submit(engine._model.new_sequence(request, events))
        events.get()
        engine.score([9 + i * i % 50 for i in range(180)])
        assert worker.stats().finished_total < 15


@pytest.mark.parametrize(
    ("ids", "start", "message"),
    [
        ([9] * 1025, 1, "1025 ids do not fit the context of 1024 tokens"),
        ([9], 1, r"start must be in \[1, 0\], got 1"),
        ([9, 10], 2, r"start must be in \[1, 1\], got 2"),
        ([9, 64], 1, "id 64 is not in the vocabulary of 64"),
    ],
)
def test_what_cannot_be_scored(engine, ids, start, message):
    with pytest.raises(ValueError, match=message):
        engine.score(ids, start)


def test_a_failing_decoder_ends_answers_and_scores(toy, caplog):
    with NativeEngine(toy.make_model()) as engine:
        engine._worker.core.runner.fail_at = 3
        with pytest.raises(EngineError, match="the cache is on fire"):
            engine.complete("hello", Sampling(50, 1.0, 1.0, seed=1)).text()
        with pytest.raises(EngineError, match="the engine has failed"):
            engine.score([9, 10])
    assert "a step failed" in caplog.text


def test_a_closed_engine_says_so(toy):
    engine = NativeEngine(toy.make_model())
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="is closed"):
        engine.chat(QUESTION, GREEDY).text()
    with pytest.raises(EngineError, match="is closed"):
        engine.score([9, 10])


def test_without_kernels_the_error_says_so(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ternary_kernels", None)
    with pytest.raises(EngineError, match="needs the package ternary-kernels"):
        open_engine(tmp_path / "model.gguf", "native")


SHAPE = SimpleNamespace(num_layers=30, num_kv_heads=5, head_dim=128)
F16_BYTES = 76_800


def test_size_of_the_cache():
    assert token_bytes_of(SHAPE, "f16") == F16_BYTES
    assert token_bytes_of(SHAPE, "int8") == 39_600
    assert CacheOptions().num_pages(4096, F16_BYTES) == 512
    assert CacheOptions(tokens=1000).num_pages(4096, F16_BYTES) == 32
    assert CacheOptions(gb=1.0).num_pages(4096, F16_BYTES) == 407
    with pytest.raises(ValueError, match="not both"):
        CacheOptions(1000, 1.0).num_pages(4096, F16_BYTES)
    with pytest.raises(ValueError, match="holds 13 tokens, it needs at least 32"):
        CacheOptions(gb=0.001).num_pages(4096, F16_BYTES)
