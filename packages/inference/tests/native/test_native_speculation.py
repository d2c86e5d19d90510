"""Tokens that are guessed change the number of steps, and nothing of the answers."""

from __future__ import annotations

import numpy as np
import pytest
from guessing import LIMITS, Oracle, drawn_by, nearly_flat, prompt_of, with_costs

from wrinklefree_inference.options import QueueOptions


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
