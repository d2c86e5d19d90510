"""Answers whose tokens something else decides on, and requests with rules for single tokens."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

import ternary_kernels as tk
from wf_formats.errors import RequestError
from wrinklefree_inference.native.async_engine import AsyncNativeEngine
from wrinklefree_inference.native.request import AnswerFailed, BadField, SamplingParams
from wrinklefree_inference.options import QueueOptions

EOS = 0
VOCAB = 64


def mask_of(allowed):
    return np.packbits(np.asarray(allowed), bitorder="little").view(np.uint32)


class EvenTokens:
    """Even tokens, then the end-of-text token; or the end without one (`is_short`)."""

    def __init__(self, num_tokens, is_short=False):
        self.num_tokens, self.is_short = num_tokens, is_short
        self.accepted = []
        self._words = np.zeros(2, np.uint32)

    def mask(self):
        ids = np.arange(VOCAB)
        is_end = len(self.accepted) == self.num_tokens
        self._words[:] = mask_of(ids == EOS if is_end else (ids % 2 == 0) & (ids != EOS))
        return self._words

    def accept(self, token_id):
        self.accepted.append(token_id)

    @property
    def is_over(self):
        return self.is_short and len(self.accepted) == self.num_tokens


def answers_of(toy, requests, num_pages=32, sample=tk.sample, limits=None):
    """(tokens, finish reason or error) of requests that run together, and the engine's figures."""

    async def one(engine, request):
        tokens, reason = [], None
        try:
            async for delta in toy.submit(engine, request):
                tokens += delta.token_ids
                reason = delta.finish_reason
        except AnswerFailed as error:
            return tokens, error
        return tokens, reason

    async def main():
        engine = AsyncNativeEngine(replace(toy.make_model(num_pages), sample=sample), limits)
        try:
            async with asyncio.timeout(30):
                found = await asyncio.gather(*(one(engine, request) for request in requests))
                return found, engine.stats()
        finally:
            await engine.close()

    return asyncio.run(main())


def neighbours(toy):
    return [
        toy.make_request([9 + i, 20, 30], max_tokens=30, seed=i, temperature=0.5 * i, ignore_eos=True)
        for i in range(3)
    ]


@pytest.mark.parametrize("options", [{"temperature": 0}, {"top_k": 3}, {"top_p": 0.5}, {"logprobs": 2}])
def test_only_what_a_constraint_allows_is_drawn(toy, options):
    constraint = EvenTokens(17)
    request = toy.make_request([9, 10, 11], max_tokens=40, seed=1, constraint=constraint, **options)
    ((tokens, reason), *others), _ = answers_of(toy, [request, *neighbours(toy)])
    assert len(tokens) == 17
    assert all(token % 2 == 0 and token != EOS for token in tokens)
    assert reason == "stop"
    assert constraint.accepted == [*tokens, EOS]
    assert others == answers_of(toy, neighbours(toy))[0]


def test_a_constraint_may_end_the_answer_without_an_end_token(toy):
    constraint = EvenTokens(5, is_short=True)
    request = toy.make_request([9, 10], max_tokens=40, seed=1, constraint=constraint)
    ((tokens, reason),), _ = answers_of(toy, [request])
    assert (len(tokens), reason) == (5, "stop")
    assert constraint.accepted == tokens


def test_tokens_are_accepted_once_also_of_answers_that_are_computed_again(toy):
    """Few pages: answers give theirs up and are computed again."""
    constraints = [EvenTokens(60) for _ in range(4)]
    requests = [
        toy.make_request(range(9, 40), max_tokens=90, seed=i, constraint=constraint)
        for i, constraint in enumerate(constraints)
    ]
    found, stats = answers_of(toy, requests, num_pages=8, limits=QueueOptions(4, 100, 24, 16))
    assert stats.preemptions_total > 0
    for constraint, (tokens, reason) in zip(constraints, found, strict=True):
        assert (len(tokens), reason) == (60, "stop")
        assert constraint.accepted == [*tokens, EOS]
    assert found == [answers_of(toy, [replace(r, constraint=EvenTokens(60))])[0][0] for r in requests]


def test_all_masks_come_before_the_draw(toy):
    calls = []

    class Logging(EvenTokens):
        def mask(self):
            calls.append("mask")
            return super().mask()

        def accept(self, token_id):
            calls.append("accept")
            super().accept(token_id)

    def sample(*arguments, **named):
        calls.append("sample")
        return tk.sample(*arguments, **named)

    requests = [toy.make_request([9 + i], max_tokens=8, seed=i, constraint=Logging(2)) for i in range(3)]
    answers_of(toy, requests, sample=sample)
    assert "".join(call[0] for call in calls).replace("mmmsaaa", "") == ""


class Broken(EvenTokens):
    """Fails after two tokens."""

    def __init__(self, fault):
        super().__init__(9)
        self.fault = fault

    def mask(self):
        return self.fault() if len(self.accepted) == 2 else super().mask()


class BrokenAccept(EvenTokens):
    def accept(self, token_id):
        super().accept(token_id)
        if len(self.accepted) == 3:
            raise KeyError("secret text of the answer")


class BrokenEnd(EvenTokens):
    @property
    def is_over(self):
        if len(self.accepted) == 3:
            raise RequestError("the grammar has no way on")
        return False


def burn():
    raise MemoryError("it burns")


BROKEN = [
    (lambda: Broken(burn), r"2 of the answer: its form cannot be kept \(MemoryError\)"),
    (
        lambda: Broken(lambda: np.zeros(2, np.uint32)),
        "2 of the answer: no token can be drawn: the mask forbids",
    ),
    (
        lambda: Broken(lambda: None),
        "must be a contiguous uint32 array of 2 words for 64 logits, got NoneType",
    ),
    (lambda: Broken(lambda: np.zeros(3, np.uint32)), r"of 2 words for 64 logits, got uint32 \(3,\)"),
    (lambda: Broken(lambda: np.zeros(2, np.int32)), "got int32"),
    (lambda: Broken(lambda: np.zeros(4, np.uint32)[::2]), "contiguous"),
    (lambda: BrokenAccept(9), r"2 of the answer: its form cannot be kept \(KeyError\)"),
    (lambda: BrokenEnd(9), "2 of the answer: the grammar has no way on"),
]


@pytest.mark.parametrize(("make", "message"), BROKEN)
def test_a_broken_constraint_ends_its_answer_alone(toy, make, message):
    requests = [toy.make_request([9, 10], max_tokens=30, seed=1, constraint=make()), *neighbours(toy)]
    ((tokens, error), *others), stats = answers_of(toy, requests)
    assert len(tokens) == 2
    with pytest.raises(AnswerFailed, match=message):
        raise error
    assert "secret" not in str(error)
    assert others == answers_of(toy, neighbours(toy))[0]
    assert (stats.healthy, stats.restarts_total, stats.kv_pages_used) == (True, 0, 0)


RULES = [
    {"logit_bias": ((12, 100.0),)},
    {"logit_bias": tuple((token, -100.0) for token in range(32))},
    {"presence_penalty": 2.0, "frequency_penalty": 2.0},
    {"frequency_penalty": -2.0},
    {"logit_bias": ((7, 2.0),), "repetition_penalty": 1.3, "presence_penalty": 0.5},
]


def test_rules_of_a_request_give_the_same_tokens_whatever_runs_beside(toy):
    requests = [
        toy.make_request([9 + i, 20, 30], max_tokens=30, seed=i, ignore_eos=True, **rules)
        for i, rules in enumerate(RULES)
    ]
    together, _ = answers_of(toy, [*requests, *neighbours(toy)])
    alone = [answers_of(toy, [request])[0][0] for request in requests]
    assert together[: len(requests)] == alone
    assert together[len(requests) :] == answers_of(toy, neighbours(toy))[0]
    forced, banned, varied, repeating, _ = [tokens for tokens, _ in alone]
    assert set(forced) == {12}
    assert min(banned) >= 32
    assert len(set(repeating)) < 15 < 25 < len(set(varied))


def test_penalties_count_the_answer_alone(toy):
    """A prompt full of a token does not keep it from coming first."""
    plain = toy.make_request([20] * 40, max_tokens=1, temperature=0)
    first = answers_of(toy, [plain])[0][0][0][0]
    prompt = [20] * 40 + [first] * 3
    plain = toy.make_request(prompt, max_tokens=1, temperature=0)
    rules = SamplingParams(max_tokens=1, temperature=0, presence_penalty=2.0, frequency_penalty=2.0)
    assert answers_of(toy, [plain])[0] == answers_of(toy, [replace(plain, sampling=rules)])[0]


@pytest.mark.parametrize("token_id", [-1, VOCAB, 2**40])
def test_a_bias_for_no_token_is_named(toy, token_id):
    request = toy.make_request([9], logit_bias=((5, 1.0), (token_id, 2.0)))
    with pytest.raises(BadField, match=f"logit_bias: token id {token_id} is not in the vocabulary of 64"):
        toy.make_model().new_sequence(request, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"logit_bias": ((5, 100.5),)}, r"logit_bias of token 5 must be in \[-100, 100\], got 100.5"),
        ({"logit_bias": ((5, float("nan")),)}, "logit_bias of token 5"),
        ({"logit_bias": ((5, 1.0), (5, 2.0))}, "different tokens"),
        ({"logit_bias": tuple((i, 1.0) for i in range(1025))}, "at most 1024 tokens, got 1025"),
        ({"presence_penalty": 2.1}, r"presence_penalty must be in \[-2, 2\]"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty must be"),
    ],
)
def test_rules_outside_their_bounds_are_refused(options, message):
    with pytest.raises(RequestError, match=message):
        SamplingParams(**options)
