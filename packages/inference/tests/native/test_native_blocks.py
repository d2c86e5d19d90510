"""Block diffusion in the engine: against PyTorch, and each request beside others as alone."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from functools import partial

import block_models
import numpy as np
import pytest
from block_models import MASK

import ternary_kernels as tk
from bitnet_arch.block_decoding import decode_blocks, drawn_with, greedy
from wf_formats.block_decoding import BlockDecoding
from wf_formats.diffusion import BlockDiffusion
from wf_formats.errors import RequestError
from wrinklefree_inference.engines.native import NativeEngine
from wrinklefree_inference.native.async_engine import AsyncNativeEngine
from wrinklefree_inference.native.request import AnswerFailed, BadField
from wrinklefree_inference.options import QueueOptions

DECODING = BlockDecoding(threshold=0.5, sub_block=8)
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


@pytest.fixture
def bench(toy):
    """Factory: a core on the real decoder, stepped by hand."""

    def make(block_size=8, token_shift=True, decoding=DECODING, limits=None, sample=tk.sample, **options):
        diffusion = BlockDiffusion(block_size, MASK, token_shift)
        fields = block_models.engine_fields(diffusion, decoding, **options)
        return toy.Bench(
            fields["runner"].num_pages, limits or QueueOptions(), **(fields | {"sample": sample})
        )

    return make


def prompt_of(length, seed=0):
    return np.random.default_rng(seed).integers(9, 60, length).tolist()


@pytest.mark.parametrize("token_shift", [True, False])
@pytest.mark.parametrize("block_size", [1, 4, 8, 32])
def test_answers_are_those_without_a_cache(bench, block_size, token_shift):
    """To the token, all prompts at once, each in as many passes as alone; some end at borders of blocks."""
    model = block_models.uncached(BlockDiffusion(block_size, MASK, token_shift))
    lengths = sorted({1, block_size - 1, block_size, block_size + 1, 2 * block_size, 37} - {0})
    b = bench(block_size, token_shift)
    for temperature in (0.0, 0.8):
        way = {"max_tokens": 40, "ignore_eos": True, "temperature": temperature}
        added = [b.add(prompt_of(length, length), seed=length, **way) for length in lengths]
        b.run()
        num_passes = 0
        for length, sequence in zip(lengths, added, strict=True):
            draw = drawn_with(partial(tk.sample_uniform, length), temperature) if temperature else greedy
            expected = decode_blocks(model, prompt_of(length, length), 40, DECODING, draw)
            assert b.tokens[sequence] == expected.token_ids
            assert b.last[sequence].decoding_passes == expected.num_passes
            num_passes += expected.num_passes
        assert block_size == 1 or 6 * len(lengths) <= num_passes < 36 * len(lengths)


def test_answers_are_pytorchs(bench):
    """But for some whose likeliest tokens are nearly equal: roundings of activations flip now and then."""
    equal = []
    for block_size, token_shift in itertools.product((4, 8, 32), (True, False)):
        diffusion = BlockDiffusion(block_size, MASK, token_shift)
        b = bench(block_size, token_shift, cache_type="f32")
        for length in (3, 8, 33):
            sequence = b.add(prompt_of(length), max_tokens=10, temperature=0.0, ignore_eos=True)
            b.run()
            expected = decode_blocks(block_models.pytorch(diffusion), prompt_of(length), 10, DECODING)
            equal.append(b.tokens[sequence] == expected.token_ids)
    assert sum(equal) >= len(equal) - 3


def test_a_threshold_of_one_draws_one_token_a_pass(bench):
    b = bench(8)
    sequence = b.add(prompt_of(9), max_tokens=31, temperature=0.0, ignore_eos=True, threshold=1.0)
    b.run()
    assert b.last[sequence].decoding_passes == 31
    assert b.core.counters.decoding_passes == 31


@pytest.mark.parametrize(("num_prompt", "max_tokens"), [(31, 2), (31, 1), (1, 40), (32, 3), (33, 40)])
def test_each_token_of_a_prompt_counts_once(bench, num_prompt, max_tokens):
    b = bench(32)
    b.add(prompt_of(num_prompt), max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    b.run()
    assert b.core.counters.prompt_tokens == num_prompt


def test_requests_have_their_own_threshold_and_sub_block(bench):
    b = bench(8)
    ways = [{"threshold": 0.0, "sub_block": 4}, {"threshold": 0.0, "sub_block": 8}, {"sub_block": 1}]
    sequences = [b.add(prompt_of(8), max_tokens=16, temperature=0.0, ignore_eos=True, **way) for way in ways]
    b.run()
    assert [b.last[sequence].decoding_passes for sequence in sequences] == [6, 4, 16]


def test_blocks_of_one_token_answer_as_the_autoregressive_model(toy, bench):
    way = {"max_tokens": 40, "seed": 3, "temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.2}
    way |= {"ignore_eos": True, "logit_bias": ((MASK, -100.0),), "frequency_penalty": 0.3}
    blocks = bench(1)
    mine = blocks.add(prompt_of(40), **way)
    blocks.run()
    fields = block_models.engine_fields(None, BlockDecoding())
    tokens = toy.Bench(64, QueueOptions(), **fields)
    other = tokens.add(prompt_of(40), **way)
    tokens.run()
    assert blocks.tokens[mine] == tokens.tokens[other]
    assert blocks.last[mine].decoding_passes == tokens.last[other].decoding_passes == 40


@pytest.mark.parametrize(("block_size", "cache_type"), [(4, "int8"), (32, "f16")])
def test_together_under_pressure_as_alone(toy, block_size, cache_type):
    """16 requests on few pages, in passes that hold few of their blocks: preempted, sharing prefixes, joining
    and leaving; tokens and log-probabilities to the bit, in as many passes."""
    requests = toy.mixed_requests(
        lambda k: {
            "max_tokens": 20 + 3 * k,
            "presence_penalty": 0.2 * (k % 2),
            "threshold": (0.3, 0.6, 1.0)[k % 3],
        }
    )
    diffusion = BlockDiffusion(block_size, MASK)

    def make(num_pages, queue):
        fields = block_models.engine_fields(diffusion, DECODING, num_pages, cache_type)
        return AsyncNativeEngine(replace(toy.make_model(num_pages), **fields), queue)

    async def read(engine, request):
        deltas = [delta async for delta in toy.submit(engine, request)]
        entries = [entry for delta in deltas for entry in delta.logprobs]
        assert len(entries) == request.sampling.max_tokens
        passes = max(delta.decoding_passes for delta in deltas)
        return entries, "".join(delta.text for delta in deltas), deltas[-1].finish_reason, passes

    async def scenario():
        crowded = make(6, QueueOptions(6, 99, 3 * block_size, 2 * block_size))
        together = await asyncio.gather(*(read(crowded, request) for request in requests))
        stats = crowded.stats()
        await crowded.close()
        free = make(64, QueueOptions())
        alone = [await read(free, request) for request in requests]
        await free.close()
        return together, alone, stats

    together, alone, stats = asyncio.run(scenario())
    assert together == alone
    assert stats.preemptions_total > 0
    assert stats.prefix_hit_tokens_total > 0
    assert stats.generated_tokens_total == sum(request.sampling.max_tokens for request in requests)
    assert MASK not in {entry.token_id for entries, *_ in alone for entry in entries}


def free_answer(bench, **way):
    b = bench(8)
    sequence = b.add(prompt_of(13), max_tokens=60, temperature=0.0, ignore_eos=True, **way)
    b.run()
    return b.tokens[sequence], b.texts[sequence]


def test_answers_end_in_the_middle_of_blocks(toy, bench):
    """By their length, by stop strings and by end tokens: always a beginning of the whole answer."""
    tokens, text = free_answer(bench)
    b = bench(8)
    for length in (1, 2, 3, 4, 9, 10, 11, 12, 27):
        cut = b.add(prompt_of(13), max_tokens=length, temperature=0.0, ignore_eos=True)
        b.run()
        assert (b.tokens[cut], b.last[cut].finish_reason) == (tokens[:length], "length")
    for at in (5, 20, 33):
        stop = text[at : at + 3]
        stopped = b.add(prompt_of(13), max_tokens=60, temperature=0.0, ignore_eos=True, stop=(stop,))
        b.run()
        assert (b.texts[stopped], b.last[stopped].finish_reason) == (text[: text.index(stop)], "stop")

    class Tokenizer(toy.ToyTokenizer):
        eos_ids = frozenset({tokens[17]})

    fields = block_models.engine_fields(BlockDiffusion(8, MASK), DECODING)
    ending = toy.Bench(64, QueueOptions(), **fields, tokenizer=Tokenizer())
    ended = ending.add(prompt_of(13), max_tokens=60, temperature=0.0)
    ending.run()
    assert ending.tokens[ended] == tokens[: tokens.index(tokens[17])]
    assert ending.last[ended].finish_reason == "stop"


def test_a_pass_gives_out_what_nothing_is_masked_before(bench):
    b = bench(8)
    sequence = b.add(prompt_of(8), max_tokens=16, temperature=0.0, ignore_eos=True, threshold=0.0)
    sizes = [sum(len(delta.token_ids) for _, delta in b.step()) for _ in range(4)]
    assert sum(sizes) <= 16
    assert sizes[:2] == [1, 7]
    b.run()
    assert len(b.tokens[sequence]) == 16


def test_finished_blocks_are_found_again(bench):
    """Whole pages of them, of the prompt and of the answer; with the shift the last block gives a token."""
    b = bench(8)
    first = b.add(prompt_of(64), max_tokens=40, temperature=0.0, ignore_eos=True)
    b.run()
    again = b.add(prompt_of(64), max_tokens=40, temperature=0.0, ignore_eos=True)
    longer = b.add([*prompt_of(64), *b.tokens[first], 11], max_tokens=5, temperature=0.0, ignore_eos=True)
    b.run()
    assert b.tokens[again] == b.tokens[first]
    assert (b.last[again].cached_prompt_tokens, b.last[longer].cached_prompt_tokens) == (32, 96)
    fresh = bench(8)
    alone = fresh.add(longer.request.prompt_ids, max_tokens=5, temperature=0.0, ignore_eos=True)
    fresh.run()
    assert fresh.tokens[alone] == b.tokens[longer]


def test_a_cancelled_request_leaves_the_others_as_they_are(bench):
    b = bench(8)
    gone, kept = (b.add(prompt_of(20), max_tokens=30, temperature=0.0, ignore_eos=True) for _ in range(2))
    for _ in range(4):
        b.step()
    b.cancel(gone)
    b.run()
    alone = bench(8)
    same = alone.add(prompt_of(20), max_tokens=30, temperature=0.0, ignore_eos=True)
    alone.run()
    assert b.tokens[kept] == alone.tokens[same]


def test_biases_and_penalties_hold_in_blocks(bench):
    tokens, _ = free_answer(bench)
    often = max(set(tokens), key=tokens.count)
    banned, _ = free_answer(bench, logit_bias=((often, -100.0), (MASK, 100.0)))
    assert not {often, MASK} & set(banned)
    assert len(set(free_answer(bench, frequency_penalty=2.0, presence_penalty=2.0)[0])) > len(set(tokens))
    assert len(set(free_answer(bench, repetition_penalty=10.0)[0])) > len(set(tokens))


def test_a_row_that_cannot_be_drawn_ends_its_answer_alone(bench):
    def refusing(logits, **arguments):
        if (arguments["seeds"] == 5).any() and (arguments["counters"] >= 9).any():
            raise ValueError("row 2: a logit is NaN")
        return tk.sample(logits, **arguments)

    b = bench(8, sample=refusing)
    way = {"max_tokens": 20, "temperature": 0.0, "ignore_eos": True}
    fine, broken = b.add(prompt_of(9), seed=4, **way), b.add(prompt_of(9), seed=5, **way)
    failures = []
    while b.scheduler.has_work:
        events = b.core.step()
        failures += [(sequence, str(event)) for sequence, event in events if isinstance(event, AnswerFailed)]
        b.tokens[fine] += [t for sequence, event in events if sequence is fine for t in event.token_ids]
    ((failed, message),) = failures
    assert failed is broken
    assert message.startswith("no token can be drawn after ")
    assert message.endswith(" of the answer: a logit is NaN")
    alone = bench(8)
    same = alone.add(prompt_of(9), seed=4, **way)
    alone.run()
    assert b.tokens[fine] == alone.tokens[same]


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([9, MASK, 10], {}, "prompt id 63 is the mask token, which no text has"),
        ([9], {"echo": True, "logprobs": 0}, "echo: this is a block-diffusion model: the probability"),
        ([9], {"constraint": object()}, "response_format: this is a block-diffusion model, which draws"),
        ([9], {"embeds": True}, "this is a block-diffusion model: what its states say"),
    ],
)
def test_what_blocks_cannot_do_is_refused(bench, prompt, options, message):
    with pytest.raises(RequestError, match=message):
        bench(8).add(prompt, **options)


def test_what_is_of_blocks_alone_is_refused_for_other_models(toy):
    b = toy.Bench()
    for field, value in (("threshold", 0.5), ("sub_block", 4)):
        with pytest.raises(
            BadField, match=f"{field}: for block-diffusion models, and this one is autoregressive"
        ):
            b.add([9], **{field: value})


@pytest.mark.parametrize(
    ("block_size", "fields", "limits", "message"),
    [
        (
            24,
            {},
            QueueOptions(),
            "the model's blocks have 24 tokens; the native engine runs blocks of 1",
        ),
        (64, {}, QueueOptions(), "the model's blocks have 64 tokens"),
        (32, {"context_tokens": 20}, QueueOptions(), "a context of 20 tokens has no room for a block of 32"),
        (32, {}, QueueOptions(4, 9, 63, 9), "--max-batch-tokens 63 has no room for two blocks of 32 tokens"),
    ],
)
def test_blocks_that_do_not_fit_the_engine_are_refused(toy, block_size, fields, limits, message):
    model = replace(toy.make_model(), diffusion=BlockDiffusion(block_size, MASK), **fields)
    with pytest.raises(RequestError, match=message):
        model.new_core(limits)


def test_texts_have_no_scores(toy):
    fields = block_models.engine_fields(BlockDiffusion(8, MASK), DECODING)
    refused = pytest.raises(RequestError, match="the probability of a text has a bound alone")
    with NativeEngine(replace(toy.make_model(), **fields)) as engine, refused:
        engine.score([9, 10, 11])


def test_prompts_and_answers_fill_whole_blocks_of_the_context(bench):
    b = bench(32, num_pages=3)
    assert b.scheduler.context_tokens == 96
    full = b.add(prompt_of(60), max_tokens=36, temperature=0.0, ignore_eos=True)
    b.run()
    assert len(b.tokens[full]) == 36
