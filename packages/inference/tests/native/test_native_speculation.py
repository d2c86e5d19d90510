"""Tokens that are guessed change the number of steps, and nothing of the answers."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ternary_kernels as tk
from wrinklefree_inference.native.speculation.record import Guess
from wrinklefree_inference.options import QueueOptions

LIMITS = QueueOptions(8, 100, 64, 16)


class FixedCosts:
    """In the place of `StepCosts`: what a step costs, whatever the clock says."""

    is_known = True

    def __init__(self, seconds):
        self.seconds = seconds

    def note(self, size, seconds):
        pass


def nearly_flat(sizes):
    return 1 + 0.001 * sizes


def with_costs(bench, seconds=nearly_flat, making=lambda sizes: 0.0 * sizes):
    bench.core._speculator._step_costs = FixedCosts(seconds)
    bench.core._speculator._guess_costs = FixedCosts(making)
    return bench


class Oracle:
    """Knows answers by the names of their requests, and is right `run` times before it is wrong once."""

    def __init__(self, answers, run, expectation=None):
        self.answers, self.run, self.expectation = answers, run, expectation

    def guess(self, wanted):
        return {sequence: self._guess(sequence, most) for sequence, most in wanted.items() if most}

    def _guess(self, sequence, most):
        answer = self.answers.get(sequence.request.id, [])[sequence.num_generated :][:most]
        places = range(sequence.num_generated, sequence.num_generated + len(answer))
        tokens = [
            token if (place + 1) % (self.run + 1) else (token + 1) % 64
            for place, token in zip(places, answer, strict=True)
        ]
        return Guess(tuple(tokens), (0.9,) * len(tokens))


def prompt_of(length, kind=0):
    return [9 + (kind * 17 + i * i) % 50 for i in range(length)]


def drawn_by(bench, requests):
    """All that was told of the answers to some requests, and the tokens that were drawn, by name."""
    sequences = [bench.add(**request) for request in requests]
    bench.run()
    told = [
        (
            bench.tokens[one],
            bench.texts[one],
            bench.entries[one],
            bench.last[one].finish_reason,
            bench.last[one].completion_tokens,
        )
        for one in sequences
    ]
    return told, {one.request.id: one.answer.tolist() for one in sequences}


class EvenTokens:
    """Even tokens, 30 of them; insists on the order in which a constraint is asked."""

    def __init__(self):
        self.accepted, self.is_asked = [], False

    def mask(self):
        assert not self.is_asked
        self.is_asked = True
        ids = np.arange(64)
        allowed = ids == 0 if len(self.accepted) == 30 else (ids % 2 == 0) & (ids > 0)
        return np.packbits(allowed, bitorder="little").view(np.uint32)

    def accept(self, token_id):
        assert self.is_asked
        self.is_asked = False
        self.accepted.append(token_id)

    is_over = False


WAYS = [
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.8, "top_k": 5},
    {"temperature": 1.3, "top_p": 0.7, "min_p": 0.05},
    {"temperature": 1.0, "repetition_penalty": 1.4},
    {"temperature": 0.0, "presence_penalty": 1.0, "frequency_penalty": 0.5},
    {"temperature": 1.0, "logit_bias": ((11, 4.0), (12, -100.0))},
    {"temperature": 0.7, "logprobs": 3},
    {"temperature": 0.5, "echo": True, "logprobs": 1},
]


def requests_of_all_ways():
    requests = [
        {"prompt": prompt_of(20 + i, i), "seed": i, "max_tokens": 40, "ignore_eos": i % 3 > 0, "name": str(i)}
        for i in range(len(WAYS) + 1)
    ]
    ways = [*WAYS, {"temperature": 1.0, "constraint": EvenTokens()}]
    return [request | way for request, way in zip(requests, ways, strict=True)]


@pytest.fixture(scope="module")
def plain(toy):
    """What plain steps answer to the requests of all ways."""
    return drawn_by(toy.Bench(limits=LIMITS), requests_of_all_ways())


@pytest.mark.parametrize("run", [0, 1, 5, 99])
@pytest.mark.parametrize("expectation", [None, 0.9])
def test_every_way_of_drawing_gives_the_same_answers(toy, plain, run, expectation):
    oracle = Oracle(plain[1], run, expectation)
    bench = with_costs(toy.Bench(limits=LIMITS, new_guesser=lambda: oracle))
    assert drawn_by(bench, requests_of_all_ways()) == plain
    counters = bench.core.counters
    assert counters.guessed_tokens > 0
    assert (counters.accepted_tokens > 0) == (run > 0)
    if run == 99:
        assert counters.accepted_tokens == counters.guessed_tokens
        assert counters.steps < 30, "10 answers of 40 tokens, 8 at a time, in steps of up to 64 tokens"


def test_a_lone_stream_takes_as_few_steps_as_its_guesses_allow(toy):
    request = {"prompt": prompt_of(9), "max_tokens": 171, "seed": 3, "ignore_eos": True, "name": "a"}
    told, answers = drawn_by(toy.Bench(), [request])
    bench = with_costs(toy.Bench(limits=LIMITS, new_guesser=lambda: Oracle(answers, 999)))
    assert drawn_by(bench, [request])[0] == told
    assert bench.core.counters.steps == 1 + 10, "the prompt with the first token, then 17 tokens a step"
    last = next(iter(bench.last.values()))
    assert (last.accepted_guesses, last.refused_guesses) == (160, 0)
    assert len(last.token_ids) == 17, "one delta for a step"


def test_an_answer_may_end_within_guesses_that_are_right(toy):
    request = {"prompt": prompt_of(20), "max_tokens": 60, "seed": 8, "ignore_eos": True, "name": "a"}
    told, answers = drawn_by(toy.Bench(), [request])
    stop = told[0][1][20:24]
    stopped = drawn_by(toy.Bench(), [request | {"stop": (stop,)}])[0]
    assert stopped[0][3] == "stop"
    bench = with_costs(toy.Bench(limits=LIMITS, new_guesser=lambda: Oracle(answers, 999)))
    assert drawn_by(bench, [request | {"stop": (stop,)}])[0] == stopped
    last = next(iter(bench.last.values()))
    assert last.refused_guesses > 0, "what was computed beyond the stop string"
    assert last.accepted_guesses + last.refused_guesses == bench.core.counters.guessed_tokens
    ended = [*answers["a"][:10], toy.EOS, *answers["a"][11:]]
    bench = with_costs(toy.Bench(limits=LIMITS, new_guesser=lambda: Oracle({"a": ended}, 999)))
    assert drawn_by(bench, [request])[0] == told, "a guessed end of text that is not drawn ends nothing"


def test_refused_guesses_leave_nothing_in_the_cache(toy):
    """The conversation goes on twice, on pages whose ends were guessed wrong."""
    requests = [
        {"prompt": prompt_of(50, i), "max_tokens": 90, "seed": i, "ignore_eos": True, "name": str(i)}
        for i in range(3)
    ]
    _, answers = drawn_by(toy.Bench(), requests)
    bench = with_costs(toy.Bench(limits=LIMITS, new_guesser=lambda: Oracle(answers, 2)))
    drawn_by(bench, requests)
    for request in requests:
        prompt = request["prompt"] + answers[request["name"]] + [11]
        turn = bench.add(prompt, max_tokens=5, seed=7, ignore_eos=True, name="turn")
        bench.run()
        bench.check_answer(turn)
        assert bench.last[turn].cached_prompt_tokens == 128, "139 tokens of it were computed"


def test_pages_for_guesses_are_nobody_elses(toy):
    """4 streams on 8 pages: guesses take what is free, and preempt nobody who would not be preempted."""
    options = {"max_tokens": 90, "temperature": 1.0, "ignore_eos": True}
    requests = [{"prompt": prompt_of(30, i), "seed": i, "name": str(i), **options} for i in range(4)]
    limits = QueueOptions(4, 100, 64, 64)
    told, answers = drawn_by(toy.Bench(num_pages=8, limits=limits), requests)
    bench = with_costs(toy.Bench(8, limits, new_guesser=lambda: Oracle(answers, 3)))
    assert drawn_by(bench, requests)[0] == told
    assert bench.scheduler.num_preemptions > 0
    assert bench.core.counters.accepted_tokens > 0


def test_guesses_take_no_page_that_a_stream_may_need(toy):
    bench = toy.Bench(4)
    sequence = bench.add(prompt_of(20), max_tokens=20, seed=1, ignore_eos=True)
    bench.step()
    scheduler = bench.scheduler
    taken = scheduler.cache.take(2)
    assert (sequence.num_tokens, sequence.num_pages, scheduler.cache.num_available) == (21, 1, 1)
    assert scheduler.room_for_guesses(sequence, 15) == 11
    assert sequence.num_pages == 1
    scheduler.cache.release(taken)
    assert scheduler.room_for_guesses(sequence, 15) == 15
    assert sequence.num_pages == 2
    bench.run()
    bench.check_answer(sequence)


@pytest.mark.parametrize(
    ("seconds", "has_room"), [(nearly_flat, True), (lambda sizes: 1 + 0.2 * sizes, False)]
)
def test_one_of_four_speculates_where_the_step_has_room(toy, seconds, has_room):
    options = {"max_tokens": 40, "temperature": 0.0, "ignore_eos": True}
    requests = [{"prompt": prompt_of(20, i), "name": str(i), **options} for i in range(4)]
    told, answers = drawn_by(toy.Bench(), requests)
    bench = with_costs(toy.Bench(limits=LIMITS, new_guesser=lambda: Oracle({"2": answers["2"]}, 99)), seconds)
    assert drawn_by(bench, requests)[0] == told
    assert (bench.core.counters.guessed_tokens > 0) == has_room
    assert (bench.order[0].request.id == "2") == has_room
    alone = with_costs(toy.Bench(limits=LIMITS, new_guesser=lambda: Oracle(answers, 99)), seconds)
    assert drawn_by(alone, requests[2:3])[0] == told[2:3]
    assert alone.core.counters.accepted_tokens > 20, "alone it pays either way"


def test_a_failed_step_begins_anew_with_another_guesser(toy):
    made = []

    def new_guesser():
        made.append(Oracle({}, 1))
        return made[-1]

    bench = toy.Bench(new_guesser=new_guesser)
    bench.core.start_anew()
    assert len(made) == 2
    bench.core.release()
    assert bench.core._speculator is None


LOGITS = np.array([0.0, 1.0, 2.0, -1.0, 0.5], np.float32)


class ToyOfFive:
    """Logits that depend on the last token alone."""

    def __init__(self, num_pages):
        self.num_pages = num_pages

    def forward(self, tokens, starts, contexts, pages, outputs):
        return np.stack([np.roll(LOGITS, int(tokens[row])) for row in outputs])


@pytest.mark.parametrize(
    ("guessed", "way", "most"),
    [((2, 4), {"temperature": 1.0}, 51.2), ((3, 0), {"temperature": 1.3, "top_k": 4}, 37.7)],
)
def test_answers_are_distributed_as_the_model_says(toy, guessed, way, most):
    """Chi-square of pairs of tokens, guessed alike every time, with the kernels' sampler.

    `most` is exceeded once in 1,000 times with 24 and 15 degrees of freedom; the seeds are fixed.
    """
    num = 1000
    model = replace(toy.make_model(), runner=ToyOfFive(num), sample=tk.sample, vocab_size=5)
    oracle = Oracle({"r": list(guessed)}, 9)
    core = replace(model, new_guesser=lambda: oracle).new_core(QueueOptions(16, num, 4096, 64))
    core._speculator._step_costs = FixedCosts(lambda sizes: np.ones(len(sizes)))
    sequences = [
        model.new_sequence(toy.make_request([1], seed=seed, max_tokens=3, ignore_eos=True, **way), None)
        for seed in range(num)
    ]
    for sequence in sequences:
        core.scheduler.add(sequence)
    while core.scheduler.has_work:
        core.step()
    assert core.counters.guessed_tokens > num
    pairs = np.zeros((5, 5))
    for sequence in sequences:
        pairs[tuple(sequence.answer[:2])] += 1
    expected = probabilities(1, way)[:, None] * np.stack([probabilities(i, way) for i in range(5)])
    possible = expected > 0
    assert not pairs[~possible].any()
    assert np.count_nonzero(possible) == (25 if "top_k" not in way else 16)
    assert ((pairs - num * expected)[possible] ** 2 / (num * expected[possible])).sum() < most


def probabilities(last, way):
    """Softmax of the model's logits at a temperature, of the best k."""
    scores = np.exp(np.roll(LOGITS, last).astype(float) / way["temperature"])
    scores[np.argsort(-scores)[way.get("top_k", 5) :]] = 0
    return scores / scores.sum()


REQUEST = st.fixed_dictionaries(
    {
        "prompt": st.builds(prompt_of, st.integers(1, 70), st.integers(0, 2)),
        "max_tokens": st.integers(1, 45),
        "client": st.sampled_from("ab"),
        "seed": st.integers(0, 3),
        "temperature": st.sampled_from([0.0, 0.7, 1.3]),
        "repetition_penalty": st.sampled_from([1.0, 1.4]),
        "ignore_eos": st.booleans(),
    }
)


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(REQUEST, st.integers(0, 20), st.none() | st.integers(0, 15)), min_size=1, max_size=6),
    st.integers(6, 14),
    st.integers(0, 9),
    st.sampled_from([QueueOptions(4, 9, 24, 7), QueueOptions(2, 9, 8, 3), QueueOptions(8, 9, 64, 64)]),
    st.sampled_from([None, 0.8]),
)
def test_whatever_is_guessed_an_answer_is_the_same(toy, requests, num_pages, run, limits, expectation):
    """Random arrivals and cancellations, shared prefixes, too few pages, guesses right now and then."""
    oracle = Oracle({}, run, expectation)
    bench = with_costs(toy.Bench(num_pages, limits, new_guesser=lambda: oracle))
    arriving, leaving, kept = defaultdict(list), defaultdict(list), []
    for index, (options, arrives, leaves_after) in enumerate(requests):
        oracle.answers[str(index)] = toy.run_alone(toy.make_request(**options))[0]
        arriving[arrives].append((options | {"name": str(index)}, leaves_after))
    for step in range(2000):
        for options, leaves_after in arriving.pop(step, ()):
            sequence = bench.add(**options)
            (kept if leaves_after is None else leaving[step + leaves_after]).append(sequence)
        for sequence in leaving.pop(step, ()):
            if sequence in bench.live:
                bench.cancel(sequence)
        if bench.scheduler.has_work:
            bench.step()
        elif not (arriving or leaving):
            break
    assert not bench.live
    assert bench.scheduler.cache.num_used == 0
    for sequence in kept:
        bench.check_answer(sequence)
