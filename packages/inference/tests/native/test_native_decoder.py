"""The engine on the real decoder and sampler, with a random model and too few pages."""

import asyncio
import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest

import ternary_kernels as tk
from wrinklefree_inference.engines.native import NativeEngine
from wrinklefree_inference.native.async_engine import AsyncNativeEngine
from wrinklefree_inference.native.loading import num_parameters_of
from wrinklefree_inference.native.model import NativeModel
from wrinklefree_inference.native.speculation.draft import DraftGuesser
from wrinklefree_inference.native.speculation.ngram import NGramGuesser
from wrinklefree_inference.options import QueueOptions

VOCAB, HIDDEN, FFN = 64, 64, 96


def random_weights(seed=0, sharpness=1.0):
    rng = np.random.default_rng(seed)

    def matrix(rows, cols):
        return tk.pack_ternary(rng.integers(-1, 2, (rows, cols)).astype(np.int8), np.float32(0.08))

    def layer():
        return tk.LayerWeights(
            input_norm=np.ones(HIDDEN, np.float32),
            post_attention_norm=np.ones(HIDDEN, np.float32),
            q=matrix(HIDDEN, HIDDEN),
            k=matrix(HIDDEN // 2, HIDDEN),
            v=matrix(HIDDEN // 2, HIDDEN),
            o=matrix(HIDDEN, HIDDEN),
            gate=matrix(FFN, HIDDEN),
            up=matrix(FFN, HIDDEN),
            down=matrix(HIDDEN, FFN),
        )

    config = tk.DecoderConfig(
        hidden_size=HIDDEN,
        intermediate_size=FFN,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        vocab_size=VOCAB,
        rms_norm_eps=1e-5,
        activation="silu",
        attention=(tk.LayerAttention(tk.Rope(tuple(10000.0 ** (-i / 8) for i in range(8)))),) * 2,
        attention_scale=0.25,
        context_tokens=512,
    )
    embedding = tk.pack_groups(
        rng.integers(-127, 128, (VOCAB, HIDDEN)).astype(np.int8), np.full((VOCAB, 2), 0.01, np.float32), 8
    )
    return tk.ModelWeights(
        config, embedding, None, np.full(HIDDEN, sharpness, np.float32), [layer(), layer()]
    )


@pytest.fixture
def make_model(toy):
    def make(num_pages, cache_type="f16", sharpness=1.0):
        weights = random_weights(sharpness=sharpness)
        decoder = tk.Decoder(weights, num_pages, cache_type, num_threads=1)
        parts = decoder, toy.ToyTokenizer(), toy.ToyStream, tk.sample
        return NativeModel("random", *parts, 512, VOCAB, HIDDEN)

    return make


def test_together_under_pressure_as_alone(toy, make_model):
    """16 requests on 10 pages: preempted, sharing prefixes, in chunks; tokens and logprobs to the bit."""
    requests = toy.mixed_requests(lambda k: {"max_tokens": 30 + 5 * k})

    async def read(engine, request):
        entries = [entry async for delta in toy.submit(engine, request) for entry in delta.logprobs]
        assert len(entries) == request.sampling.max_tokens
        return entries

    async def scenario():
        crowded = AsyncNativeEngine(make_model(10), QueueOptions(6, 99, 40, 20))
        together = await asyncio.gather(*(read(crowded, request) for request in requests))
        stats = crowded.stats()
        await crowded.close()
        free = AsyncNativeEngine(make_model(64))
        alone = [await read(free, request) for request in requests]
        await free.close()
        return together, alone, stats

    together, alone, stats = asyncio.run(scenario())
    assert together == alone
    assert stats.preemptions_total > 0
    assert stats.prefix_hit_tokens_total > 0
    assert stats.kv_pages_used == 0


@pytest.mark.parametrize("cache_type", ["f16", "int8"])
def test_guessed_tokens_change_no_bit(toy, make_model, cache_type):
    """By prompt lookup, the model itself and another; then the conversation goes on, on the same pages."""

    def told(new_guesser):
        bench = toy.Bench()
        bench.model = replace(make_model(64, cache_type, 0.15), new_guesser=new_guesser)
        bench.core = bench.model.new_core(QueueOptions(3, 99, 64, 20))
        bench.scheduler = bench.core.scheduler
        if new_guesser is not None:
            bench.core._speculator._step_costs.seconds = lambda sizes: np.ones(len(sizes))
        entries, answer = [], []
        for turn in range(2):
            sequences = [
                bench.add(
                    [*range(9, 40), *range(9, 20 + k), *answer[:33]],
                    max_tokens=60,
                    seed=k,
                    temperature=1.0 * (k % 3),
                    top_p=0.95,
                    presence_penalty=0.5 * (k % 2),
                    logprobs=1,
                    ignore_eos=True,
                )
                for k in range(5)
            ]
            bench.run()
            answer = bench.tokens[sequences[0]]
            entries += [bench.entries[sequence] for sequence in sequences]
            assert not turn or bench.last[sequences[0]].cached_prompt_tokens >= 64
        return entries, bench.core.counters

    def draft(seed):
        decoder = tk.Decoder(random_weights(seed, 0.15), 64, cache_type, num_threads=1)
        return lambda: DraftGuesser(decoder, 512, tk.sample, VOCAB, VOCAB)

    plain, _ = told(None)
    for new_guesser, is_good in ((NGramGuesser, False), (draft(0), True), (draft(1), False)):
        guessed, counters = told(new_guesser)
        assert guessed == plain
        assert counters.guessed_tokens > 0
        assert (counters.accepted_tokens > 0.9 * counters.guessed_tokens) == is_good, counters


def test_scores_are_the_log_probabilities_of_generation(toy, make_model):
    with NativeEngine(make_model(32)) as engine:
        prompt = [9 + i * i % 50 for i in range(60)]
        whole = engine.score([*prompt, 1])
        logits = make_model(8).runner.forward(
            np.array(prompt, np.int32),
            np.array([0, 60], np.int32),
            np.zeros(1, np.int32),
            np.array([[3, 1]], np.int32),
            np.arange(60, dtype=np.int32),
        )
        rows = logits.astype(np.float64)
        expected = rows - np.logaddexp.reduce(rows, axis=1)[:, None]
        np.testing.assert_allclose(whole.logprobs, expected[np.arange(60), [*prompt[1:], 1]], atol=1e-5)
        np.testing.assert_array_equal(engine.score([*prompt, 1], 50).logprobs, whole.logprobs[49:])


def test_closing_frees_the_decoder(make_model):
    model = make_model(4)
    decoder = weakref.ref(model.runner)
    engine = NativeEngine(model)
    del model
    engine.close()
    gc.collect()
    assert decoder() is None


def test_parameters_are_counted():
    layer = 2 * HIDDEN + 2 * HIDDEN * HIDDEN + 2 * HIDDEN * HIDDEN // 2 + 3 * HIDDEN * FFN
    assert num_parameters_of(random_weights()) == 2 * layer + VOCAB * HIDDEN + HIDDEN
