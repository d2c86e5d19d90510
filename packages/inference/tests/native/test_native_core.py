"""Scheduling and steps with the little model: what runs together must answer as if it ran alone."""

import math
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wf_formats.kernel_sizes import PAGE_TOKENS
from wrinklefree_inference.native.fair_queue import FairQueue
from wrinklefree_inference.native.fair_shares import fair_shares
from wrinklefree_inference.native.request import RequestTooLong
from wrinklefree_inference.options import QueueOptions


@pytest.fixture
def bench(toy):
    return toy.Bench


def prompt_of(length, kind=0):
    return [9 + (kind * 17 + i * i) % 50 for i in range(length)]


@pytest.mark.parametrize("length", [1, 31, 32, 33, 100])
def test_one_request(bench, length):
    b = bench()
    sequence = b.add(prompt_of(length), temperature=0.8, seed=5, max_tokens=50, ignore_eos=True)
    b.run()
    b.check_answer(sequence)
    last = b.last[sequence]
    assert (last.prompt_tokens, last.completion_tokens, last.cached_prompt_tokens) == (length, 50, 0)


def test_prompts_are_computed_in_chunks_beside_streams(bench):
    b = bench(limits=QueueOptions(4, 100, 24, 8))
    stream = b.add(prompt_of(3), max_tokens=40, seed=1, ignore_eos=True)
    b.step()
    long = b.add(prompt_of(90, 1), max_tokens=2, seed=1)
    events = [b.step() for _ in range(12)]
    assert all(any(sequence is stream for sequence, _ in step) for step in events if step)
    assert b.model.runner.batch_sizes[1:12] == [1 + 8] * 11
    b.run()
    b.check_answer(stream)
    b.check_answer(long)


def test_a_lone_prompt_takes_the_whole_budget(bench):
    b = bench()
    b.add(prompt_of(60), max_tokens=1)
    b.run()
    assert b.model.runner.batch_sizes == [24, 24, 12]


def test_budget_is_never_exceeded(bench):
    b = bench(limits=QueueOptions(4, 100, 24, 24))
    for i in range(9):
        b.add(prompt_of(20 + i, i), max_tokens=9, seed=i, client=str(i % 3))
    b.run()
    assert max(b.model.runner.batch_sizes) <= 24


def test_the_next_turn_finds_the_conversation(bench):
    b = bench()
    first = b.add(prompt_of(70), max_tokens=40, seed=2, ignore_eos=True)
    b.run()
    second = b.add([*first.request.prompt_ids, *b.tokens[first], 11, 12], max_tokens=5, seed=3)
    b.run()
    b.check_answer(second)
    assert b.last[second].cached_prompt_tokens == 96
    assert b.scheduler.hit_tokens == 96


@pytest.mark.parametrize(("length", "hit"), [(64, 32), (65, 64), (63, 32), (32, 0)])
def test_at_least_one_prompt_token_is_computed(bench, length, hit):
    b = bench()
    for _ in range(2):
        sequence = b.add(prompt_of(length), max_tokens=3, seed=1)
        b.run()
        b.check_answer(sequence)
    assert b.last[sequence].cached_prompt_tokens == hit


def test_equal_prompts_at_the_same_moment_are_computed_once(bench):
    b = bench(limits=QueueOptions(8, 100, 32, 32))
    same = [b.add(prompt_of(200), max_tokens=10, seed=i, temperature=1.0) for i in range(6)]
    b.run()
    for sequence in same:
        b.check_answer(sequence)
    assert [b.last[sequence].cached_prompt_tokens for sequence in same] == [0] + [192] * 5
    assert b.core.counters.prompt_tokens == 200 + 5 * 8


def test_waiting_for_a_prefix_does_not_hold_up_other_clients(bench):
    b = bench()
    b.add(prompt_of(150), max_tokens=2, client="a")
    b.add(prompt_of(150), max_tokens=2, client="a")
    other = b.add(prompt_of(10, 1), max_tokens=2, client="b", ignore_eos=True)
    b.run()
    assert b.order[0] is other


def test_nobody_waits_for_a_prefix_that_is_itself_waiting(bench):
    """The owner stands behind a long prompt of its client, and takes the pages over when its turn comes."""
    b = bench(num_pages=64)
    b.add(prompt_of(400), max_tokens=2, client="a", ignore_eos=True)
    owner = b.add(prompt_of(150, 1), max_tokens=2, client="a", seed=1, ignore_eos=True)
    b.step()
    assert owner in b.scheduler.running
    other = b.add(prompt_of(150, 1), max_tokens=2, client="b", seed=1, ignore_eos=True)
    b.run()
    assert b.order[0] is other
    assert (b.last[other].cached_prompt_tokens, b.last[owner].cached_prompt_tokens) == (0, 128)
    assert b.core.counters.prompt_tokens == 400 + 150 + 22
    for sequence in (owner, other):
        b.check_answer(sequence)


def test_a_cancelled_owner_leaves_the_prefix_to_the_next(bench):
    b = bench()
    first, second = (b.add(prompt_of(150), max_tokens=4, seed=1) for _ in range(2))
    b.step()
    assert b.scheduler.running == [first]
    b.cancel(first)
    b.run()
    b.check_answer(second)


def test_preempted_streams_continue_identically(bench):
    b = bench(num_pages=8, limits=QueueOptions(4, 100, 64, 64))
    options = {"max_tokens": 90, "temperature": 1.0, "ignore_eos": True, "repetition_penalty": 1.3}
    sequences = [b.add(prompt_of(30, i), seed=i, **options) for i in range(4)]
    b.run()
    assert b.scheduler.num_preemptions > 0
    assert b.order[0] is sequences[0]
    for sequence in sequences:
        b.check_answer(sequence)


def test_cached_prefixes_go_before_anybody_is_preempted(bench):
    b = bench(num_pages=8)
    b.add(prompt_of(200), max_tokens=1)
    b.run()
    assert b.scheduler.cache.num_cached == 6
    sequence = b.add(prompt_of(100, 1), max_tokens=100, ignore_eos=True, seed=4)
    b.run()
    b.check_answer(sequence)
    assert b.scheduler.num_preemptions == 0


def test_what_can_never_fit_is_refused(bench):
    scheduler = bench(num_pages=4).scheduler
    scheduler.check_fits(100, 28)
    with pytest.raises(RequestTooLong, match="100 prompt tokens and max_tokens 29 exceed the 128 tokens"):
        scheduler.check_fits(100, 29)


def test_clients_take_turns(bench):
    b = bench(limits=QueueOptions(1, 100, 24, 16))
    for name, client in enumerate("aaaabbc"):
        b.add(prompt_of(4, name), max_tokens=1, client=client, ignore_eos=True)
    b.run()
    assert "".join(sequence.request.client for sequence in b.order) == "abcabaa"


def test_a_long_prompt_is_not_starved_by_short_ones(bench):
    b = bench(limits=QueueOptions(4, 100, 24, 16))
    long = b.add(prompt_of(300), max_tokens=1, client="long")
    for i in range(200):
        if i % 2 == 0:
            b.add(prompt_of(16, i), max_tokens=1, client=f"short{i % 6}", ignore_eos=True)
        b.step()
        if long not in b.live:
            break
    assert i < 60, "300 tokens at 5 or more per step"


def test_a_large_request_is_not_overtaken_for_want_of_pages(bench):
    b = bench(num_pages=8)
    first = b.add(prompt_of(120), max_tokens=30, ignore_eos=True, seed=1)
    b.step()
    large = b.add(prompt_of(200, 1), max_tokens=2, client="b", ignore_eos=True)
    small = [b.add(prompt_of(4, i), max_tokens=2, client="c", ignore_eos=True) for i in range(3)]
    b.run()
    assert b.order == [first, large, *small]


def test_stop_strings_and_logprobs(bench):
    b = bench()
    free = b.add(prompt_of(20), max_tokens=60, seed=8, ignore_eos=True, logprobs=3)
    b.run()
    text = b.texts[free]
    assert len(text) > 40
    stop = text[20:24]
    stopped = b.add(prompt_of(20), max_tokens=60, seed=8, ignore_eos=True, stop=(stop,))
    b.run()
    assert b.texts[stopped] == text[: text.index(stop)]
    assert b.last[stopped].finish_reason == "stop"
    assert b.tokens[free][: len(b.tokens[stopped])] == b.tokens[stopped]


def test_logprobs_are_those_of_the_model(bench, toy):
    b, entries = bench(), []
    b.add(prompt_of(5), max_tokens=6, temperature=0.0, ignore_eos=True, logprobs=2, repetition_penalty=1.0)
    while b.scheduler.has_work:
        entries += [entry for _, delta in b.step() for entry in delta.logprobs]
    values = []
    for token in prompt_of(5):
        values.append(toy.value_of(token, values))
    assert len(entries) == 6
    for entry in entries:
        logits = toy.logits_of(values).astype(float)
        logprobs = logits - math.log(sum(map(math.exp, logits)))
        assert entry.token_id == logits.argmax() == entry.top[0][0]
        assert entry.logprob == pytest.approx(logprobs[entry.token_id], abs=1e-5)
        assert [value for *_, value in entry.top] == pytest.approx(sorted(logprobs)[:-3:-1], abs=1e-5)
        assert entry.bytes_ == toy.TOKEN_BYTES[entry.token_id]
        values.append(toy.value_of(entry.token_id, values))


@pytest.mark.parametrize(
    ("demands", "budget", "shares"),
    [
        ([], 5, []),
        ([3, 9], 100, [3, 9]),
        ([3, 9], 8, [3, 5]),
        ([10, 2, 10], 12, [5, 2, 5]),
        ([10, 10], 0, [0, 0]),
    ],
)
def test_fair_shares(demands, budget, shares):
    assert fair_shares(demands, budget, 0) == shares


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9), st.integers(0, 99), st.integers(0, 99))
def test_fair_shares_waste_nothing_and_favour_nobody(demands, budget, turn):
    shares = fair_shares(demands, budget, turn)
    assert sum(shares) == min(budget, sum(demands))
    for demand, share in zip(demands, shares, strict=True):
        assert share <= demand
        assert share == demand or share >= max(shares) - 1


def test_a_remainder_takes_turns():
    firsts = [fair_shares([9, 9, 9], 1, turn).index(1) for turn in range(6)]
    assert Counter(firsts) == {0: 2, 1: 2, 2: 2}


def test_fair_queue_removes_from_the_middle(bench):
    queue = FairQueue()
    b = bench()
    sequences = [b.add([9], max_tokens=1, client=c) for c in "aab"]
    for sequence in sequences:
        queue.append(sequence)
    queue.remove(sequences[1])
    queue.remove(sequences[2])
    assert (list(queue), len(queue), queue.heads()) == ([sequences[0]], 1, [sequences[0]])


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_running": 0}, "max_running must be at least 1, got 0"),
        ({"max_running": 32, "max_batch_tokens": 32}, "must exceed max_running"),
        ({"max_waiting": -1}, "max_waiting must be 0 or more, got -1"),
    ],
)
def test_limits_are_checked(limits, message):
    with pytest.raises(ValueError, match=message):
        QueueOptions(**limits)


PARTS = st.lists(st.sampled_from([0, 1, 2]), min_size=0, max_size=3)
REQUEST = st.fixed_dictionaries(
    {
        "parts": PARTS,
        "rest": st.integers(1, 40),
        "kind": st.integers(0, 2),
        "max_tokens": st.integers(1, 45),
        "client": st.sampled_from("abc"),
        "seed": st.integers(0, 3),
        "temperature": st.sampled_from([0.0, 0.7, 1.3]),
        "top_k": st.sampled_from([0, 5]),
        "top_p": st.sampled_from([1.0, 0.8]),
        "repetition_penalty": st.sampled_from([1.0, 1.4]),
        "ignore_eos": st.booleans(),
        "arrives": st.integers(0, 30),
        "cancelled_after": st.one_of(st.none(), st.none(), st.integers(0, 20)),
    }
)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(REQUEST, min_size=1, max_size=9),
    st.integers(6, 14),
    st.sampled_from(
        [
            QueueOptions(4, 9, 24, 7),
            QueueOptions(2, 9, 8, 3),
            QueueOptions(8, 9, 64, 64),
            QueueOptions(1, 9, 40, 40),
        ]
    ),
)
def test_whatever_else_runs_an_answer_is_the_same(toy, requests, num_pages, limits):
    """Random arrivals, cancellations, shared prefixes and too few pages."""
    b = toy.Bench(num_pages, limits)
    agenda = defaultdict(list)
    for options in requests:
        agenda[options["arrives"]].append(options)
    kept, leaving = [], defaultdict(list)
    step = 0
    while agenda or leaving or b.scheduler.has_work:
        for options in agenda.pop(step, ()):
            prompt = [token for part in options["parts"] for token in prompt_of(PAGE_TOKENS, part)]
            prompt += prompt_of(options["rest"], options["kind"])
            after = options["cancelled_after"]
            params = {k: v for k, v in options.items() if k not in NOT_SAMPLING}
            sequence = b.add(prompt, **params)
            if after is None:
                kept.append(sequence)
            else:
                leaving[step + after].append(sequence)
        for sequence in leaving.pop(step, ()):
            if sequence in b.live:
                b.cancel(sequence)
        if b.scheduler.has_work:
            b.step()
        step += 1
        assert step < 3000
    assert b.scheduler.cache.num_used == 0
    for sequence in kept:
        b.check_answer(sequence)


NOT_SAMPLING = {"parts", "rest", "kind", "arrives", "cancelled_after"}
