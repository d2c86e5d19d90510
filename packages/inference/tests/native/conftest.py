"""A little language model in numpy that lives in pages as the real one does.

The value that a token leaves in its page depends on the token and on all values before it, read
*through the page table*; the logits depend on all values up to their token. So a wrong table, a wrong
context length, a page shared by mistake or given away too early changes the text.
"""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from wf_formats.kernel_sizes import PAGE_TOKENS
from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.native.async_engine import AsyncNativeEngine
from wrinklefree_inference.native.inbox import Inbox, InboxEvent
from wrinklefree_inference.native.model import NativeModel
from wrinklefree_inference.native.request import Delta, GenerationRequest, SamplingParams
from wrinklefree_inference.options import QueueOptions

VOCAB = 64
HIDDEN = 8
EOS = 0
POISON = np.uint64(0xDEADBEEF)
ODD = np.arange(1, 2 * 4096, 2, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
TOKEN_BYTES = [b"<eos>", b"\xc3", b"\xa9", b"ab", b"abc", b" the", b"\n", b"\xe2\x82", b"\xac"]
TOKEN_BYTES += [bytes([97 + i % 26]) * (1 + i // 40) for i in range(VOCAB - len(TOKEN_BYTES))]


def mix(x):
    """Scramble uint64 (the finalizer of splitmix64)."""
    x = np.asarray(x, np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def value_of(token, before):
    """What a token leaves in the cache, given the values before it."""
    before = np.asarray(before, np.uint64)
    own = np.array([token + 1], np.uint64) * ODD[7]  # an array: scalars would warn of the overflow
    return mix(own + (before * ODD[: len(before)]).sum(dtype=np.uint64))[0]


def logits_of(values):
    """Logits after the last of `values`; flat enough that samples vary, with the end token now and then."""
    state = (np.asarray(values, np.uint64) * ODD[3 : 3 + len(values)]).sum(dtype=np.uint64)
    noise = mix(state + np.arange(VOCAB, dtype=np.uint64) * ODD[11])
    return (noise >> np.uint64(40)).astype(np.float32) / np.float32(2**24) * 6


def state_of(value):
    """The hidden state of a token that leaves `value` in the cache."""
    noise = mix(np.uint64(value) ^ ODD[np.arange(HIDDEN) + 40])
    return (noise >> np.uint64(40)).astype(np.float32) / np.float32(2**24) - np.float32(0.4)


def within_reach(logits, counts, depths):
    """Nothing but the logits that a reach asks for."""
    assert (counts.dtype, depths.dtype) == (np.int32, np.float32)
    assert len(logits) == len(counts) == len(depths)
    for row, count, depth in zip(logits, counts.tolist(), depths.tolist(), strict=True):
        row[row < min(np.sort(row)[-min(count, len(row))], row.max() - depth)] = -np.inf
    return logits


class ToyRunner:
    """`ternary_kernels.Decoder` for the little model."""

    def __init__(self, num_pages):
        self.num_pages = num_pages
        self.values = np.full((num_pages, PAGE_TOKENS), POISON)
        self.num_calls = self.num_tokens = 0
        self.batch_sizes = []
        self.fail_at = None
        self.delay_s = 0.0

    def forward(self, tokens, starts, contexts, pages, outputs, reach=None):
        for array in (tokens, starts, contexts, pages, outputs):
            assert array.dtype == np.int32
        assert len(starts) == len(contexts) + 1 == len(pages) + 1
        assert starts[0] == 0
        assert starts[-1] == len(tokens)
        self.num_calls += 1
        self.num_tokens += len(tokens)
        self.batch_sizes.append(len(tokens))
        if self.fail_at is not None and self.num_calls >= self.fail_at:
            raise RuntimeError("the cache is on fire")
        if self.delay_s:
            import time

            time.sleep(self.delay_s)
        logits, self.states = {}, []
        written = set()
        wanted = set(outputs.tolist())
        for s, context in enumerate(contexts.tolist()):
            start, end = starts[s], starts[s + 1]
            assert end > start
            mine = {pages[s, (context + i) // PAGE_TOKENS] for i in range(end - start)}
            assert not mine & written, "two sequences write one page"
            written |= mine
            for i in range(end - start):
                self.states.append(self._token(tokens[start + i], context + i, pages[s]))
                if start + i in wanted:
                    logits[int(start + i)] = logits_of(self._visible(context + i + 1, pages[s]))
        wanted = np.array([logits[row] for row in outputs.tolist()], np.float32).reshape(len(outputs), VOCAB)
        return wanted if reach is None else within_reach(wanted, *reach)

    def hidden_states(self, rows):
        assert rows.dtype == np.int32
        return np.array([self.states[row] for row in rows.tolist()], np.float32).reshape(len(rows), HIDDEN)

    def _visible(self, count, table):
        return self.values[table[: -(-count // PAGE_TOKENS)]].reshape(-1)[:count]

    def _token(self, token, position, table):
        value = value_of(token, self._visible(position, table))
        self.values[table[position // PAGE_TOKENS], position % PAGE_TOKENS] = value
        return state_of(value)


def sample(
    logits,
    temperature,
    top_k,
    top_p,
    min_p,
    repetition_penalty,
    history,
    seeds,
    counters,
    num_logprobs,
    **rules,
):
    """`ternary_kernels.sample` in plain numpy, one row at a time."""
    tokens, logprobs, top_ids, top_logprobs = [], [], [], []
    for r, row in enumerate(np.asarray(logits, np.float64)):
        raw = row - np.logaddexp.reduce(row)
        seen = np.unique(np.asarray(history[r], np.int64))
        row = row.copy()
        rule = {name: value[r] for name, value in rules.items() if value[r] is not None}
        if "bias_ids" in rule:
            row[rule["bias_ids"]] += rule["bias_values"]
        penalty = float(repetition_penalty[r])
        row[seen] = np.where(row[seen] > 0, row[seen] / penalty, row[seen] * penalty)
        if "answers" in rule:
            counts = np.bincount(rule["answers"], minlength=len(row))
            row -= counts * rule["frequency_penalty"] + (counts > 0) * rule["presence_penalty"]
        if "masks" in rule:
            bits = np.unpackbits(rule["masks"].view(np.uint8), bitorder="little")
            row[bits[: len(row)] == 0] = -np.inf
        token = int(row.argmax())
        if temperature[r] > 0:
            row = row / float(temperature[r])
            order = np.argsort(-row, kind="stable")
            probability = np.exp(row[order] - row.max())
            if top_k[r]:
                probability[top_k[r] :] = 0  # first, so that top_p is of what is left
            probability /= probability.sum()
            keep = np.cumsum(probability) - probability < top_p[r]
            keep &= probability >= min_p[r] * probability[0]
            probability = np.where(keep, probability, 0)
            key = [int(seeds[r]), int(counters[r])]
            uniform = np.random.Generator(np.random.Philox(key=np.array(key, np.uint64))).random()
            cumulative = np.cumsum(probability) / probability.sum()
            token = int(order[np.searchsorted(cumulative, uniform, side="right")])
        tokens.append(token)
        logprobs.append(raw[token])
        best = np.argsort(-raw, kind="stable")[: max(0, int(num_logprobs[r]))]
        top_ids.append(best.astype(np.int32))
        top_logprobs.append(raw[best].astype(np.float32))
    return np.array(tokens, np.int32), np.array(logprobs, np.float32), top_ids, top_logprobs


class ToyTokenizer:
    """Tokens of one to four bytes, some of them parts of a character."""

    eos_ids = frozenset({EOS})

    def encode(self, text, add_special=False, max_tokens=None):
        return [TOKEN_BYTES.index(char.encode()) for char in text]

    def decode(self, ids):
        return b"".join(TOKEN_BYTES[i] for i in ids).decode("utf-8", errors="replace")

    def token_bytes(self, token_id):
        return TOKEN_BYTES[token_id]

    def apply_chat_template(self, messages, *, max_tokens=None, variables=None, tools=None):
        return [5, *(token for message in messages for token in self.encode(message["content"])), 6]


class ToyStream:
    """Gives out whole characters; a byte that cannot become one is replaced at once."""

    def __init__(self, shows_special=False):
        import codecs

        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id):
        return self._decoder.decode(TOKEN_BYTES[token_id])

    def flush(self):
        return self._decoder.decode(b"", final=True)


class TokenStream(AsyncIterator[Delta]):
    """Deltas of one request; it is cancelled when the stream is closed before its end, and when the task that
    waits for the next delta is cancelled."""

    def __init__(self, inbox: Inbox, cancel: Callable[[], None]) -> None:
        self._inbox, self._cancel = inbox, cancel
        self._events: list[InboxEvent] = []
        self._is_ended = False

    def __aiter__(self):
        return self

    async def __anext__(self) -> Delta:
        if self._is_ended:
            raise StopAsyncIteration
        try:
            if not self._events:
                self._events = [event for _, event in await self._inbox.take()]
        except asyncio.CancelledError:
            await self.aclose()
            raise
        if not self._events:
            raise StopAsyncIteration
        event = self._events.pop(0)
        self._is_ended = isinstance(event, EngineError) or event.finish_reason is not None
        if isinstance(event, EngineError):
            raise event
        return event

    async def aclose(self) -> None:
        """Cancel the request if it has not ended."""
        if not self._is_ended:
            self._is_ended = True
            self._cancel()
            self._inbox.close()


def submit(engine: AsyncNativeEngine, request: GenerationRequest) -> TokenStream:
    """Queue a request that has a reader of its own; it runs whether the stream is read or not."""
    inbox = Inbox()
    return TokenStream(inbox, engine.submit_to(inbox, 0, request))


def make_model(num_pages=32, context_tokens=1024):
    parts = ToyRunner(num_pages), ToyTokenizer(), ToyStream, sample
    return NativeModel("toy", *parts, context_tokens, VOCAB, HIDDEN)


def make_request(prompt, client="", name="r", constraint=None, embeds=False, **sampling):
    return GenerationRequest(tuple(prompt), SamplingParams(**sampling), name, client, constraint, embeds)


def mixed_requests(more):
    """16 that share prefixes and clients and differ in sampling. Args: more: k -> further fields."""
    return [
        make_request(
            [*range(9, 9 + 8 * (1 + k % 5)), 10 + k],
            client=str(k % 3),
            seed=k,
            temperature=0.3 * (k % 4),
            top_k=10 * (k % 2),
            top_p=0.95,
            min_p=0.01,
            repetition_penalty=1.0 + 0.1 * (k % 3),
            logprobs=k % 3,
            ignore_eos=True,
            **more(k),
        )
        for k in range(16)
    ]


def run_alone(request):
    """Tokens (without the end token) and finish reason of a request, computed without pages."""
    params, values, tokens = request.sampling, [], list(request.prompt_ids)
    for token in tokens:
        values.append(value_of(token, values))
    drawn = []
    reason = "length"
    for counter in range(params.max_tokens):
        history = [np.array(tokens, np.int32)]
        one = [[getattr(params, name)] for name in ("temperature", "top_k", "top_p", "min_p")]
        logits = logits_of(values)[None]
        seed = (params.seed or 0) % 2**64
        token = int(sample(logits, *one, [params.repetition_penalty], history, [seed], [counter], [-1])[0][0])
        if token == EOS and not params.ignore_eos:
            reason = "stop"
            break
        drawn.append(token)
        tokens.append(token)
        values.append(value_of(token, values))
    return drawn, reason


def check_pages(cache, owners):
    """The books of a PageCache agree with the lists of all owners."""
    expected = [0] * cache.num_pages
    for pages in owners:
        for page in pages:
            expected[page] += 1
    assert expected == cache._references
    used = {page for page, count in enumerate(expected) if count}
    free, unused = set(cache._free), set(cache._unused)
    assert len(free) == len(cache._free)
    assert used | free | unused == set(range(cache.num_pages))
    assert len(used) + len(free) + len(unused) == cache.num_pages
    assert {page: digest for digest, page in cache._page_of.items()} == cache._digest_of
    assert unused <= cache._digest_of.keys()
    assert not free & cache._digest_of.keys()


def check_scheduler(scheduler):
    """What must hold between two steps."""
    check_pages(scheduler.cache, [sequence.page_list() for sequence in scheduler.running])
    for sequence in scheduler.running:
        assert sequence.num_pages * PAGE_TOKENS >= sequence.num_computed
    arrivals = [sequence.arrival for sequence in scheduler.running]
    assert arrivals == sorted(arrivals)
    assert len(scheduler.running) <= scheduler.queue.max_running
    if not scheduler.running:
        assert not scheduler._promised


class Bench:
    """A core that is stepped by hand."""

    def __init__(self, num_pages=32, limits=None, **fields):
        self.model = replace(make_model(num_pages), **fields)
        self.core = self.model.new_core(limits or QueueOptions(4, 100, 24, 16))
        self.scheduler = self.core.scheduler
        self.texts, self.tokens, self.entries = defaultdict(str), defaultdict(list), defaultdict(list)
        self.last, self.live, self.order = {}, set(), []

    def add(self, prompt, **options):
        sequence = self.model.new_sequence(make_request(prompt, **options), None)
        self.scheduler.add(sequence)
        self.live.add(sequence)
        return sequence

    def cancel(self, sequence):
        self.live.discard(sequence)
        self.core.finish(sequence)

    def step(self):
        events = self.core.step()
        check_scheduler(self.scheduler)
        for sequence, delta in events:
            assert sequence in self.live
            self.texts[sequence] += delta.text
            self.tokens[sequence] += delta.token_ids
            self.entries[sequence] += delta.logprobs
            self.last[sequence] = delta
            if delta.finish_reason:
                self.live.discard(sequence)
                self.order.append(sequence)
        return events

    def run(self, max_steps=2000):
        for _ in range(max_steps):
            if not self.scheduler.has_work:
                break
            self.step()
        assert not self.scheduler.has_work, "it does not end"
        assert not self.live
        assert self.scheduler.cache.num_used == 0

    def check_answer(self, sequence):
        tokens, reason = run_alone(sequence.request)
        assert self.tokens[sequence] == tokens
        assert self.last[sequence].finish_reason == reason
        assert self.texts[sequence] == self.model.tokenizer.decode(tokens)


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    """This file."""
    return sys.modules[__name__]
