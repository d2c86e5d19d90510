from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wrinklefree.callbacks.lambda_warmup import lambda_at
from wrinklefree.config.lengths import Lengths, schedule_phases
from wrinklefree.config.training import ScheduleConfig, ScheduleKind, StepUnit
from wrinklefree.schedules import make_schedule


def _factors(total: int, tokens_per_step: int = 1, **options: object) -> list[float]:
    schedule = make_schedule(ScheduleConfig(**options), Lengths(tokens_per_step, total))  # type: ignore[arg-type]
    return [schedule(step) for step in range(total)]


def test_cosine() -> None:
    factors = _factors(12, kind=ScheduleKind.cosine, warmup=1, min_ratio=0.2)
    assert factors[0] == 0.5
    assert factors[1] == 1.0
    assert factors[6] == pytest.approx(0.6), "half way down"
    assert factors[11] == pytest.approx(0.2)


def test_wsd() -> None:
    factors = _factors(10, kind=ScheduleKind.wsd, warmup=3, decay=4, min_ratio=0.0)
    expected = [0.25, 0.5, 0.75, 1, 1, 1, 0.75, 0.5, 0.25, 0]
    assert factors == pytest.approx(expected)


def test_constant() -> None:
    assert _factors(4, kind=ScheduleKind.constant, warmup=1) == [0.5, 1, 1, 1]


LENGTHS = st.one_of(st.just(0), st.integers(1, 30), st.sampled_from([0.02, 0.1, 0.3, 0.5]))
KINDS = st.sampled_from([ScheduleKind.cosine, ScheduleKind.wsd])


@st.composite
def planned_runs(draw: st.DrawFn) -> tuple[ScheduleConfig, list[tuple[int, int]]]:
    """A schedule, and its plans: after how many updates, how many there are to be."""
    kind, min_ratio = draw(KINDS), draw(st.sampled_from([0.0, 0.1, 1.0]))
    config = ScheduleConfig(kind, StepUnit.steps, draw(LENGTHS), draw(LENGTHS), min_ratio)
    least = max(10, *(math.ceil(length) for length in (config.warmup, config.warmup + config.decay)))
    if kind is ScheduleKind.wsd and max(config.warmup, config.decay) >= 1:
        least *= 2  # the other one may be a share, of half of the run at most
    plans = [(0, draw(st.sampled_from([least, 100, 1000]).filter(lambda steps: steps >= least)))]
    for gap in draw(st.lists(st.integers(1, 120), max_size=6)):
        done = plans[-1][0] + gap
        if done >= plans[-1][1]:
            break
        rest = draw(st.one_of(st.integers(1, 40), st.integers(1, 2000)))
        plans.append((done, max(least, done + rest)))
    return config, plans


def follow(config: ScheduleConfig, plans: list[tuple[int, int]]) -> tuple[list[float], list[float]]:
    """The factor of each update, and what it may differ by from the one before: of the plans as they are."""
    planned, schedule, factors, bounds = dict(plans), None, [], []
    for step in itertools.count():
        if step in planned:
            plan = make_schedule(config, Lengths(1, planned[step]))
            schedule = plan if schedule is None else schedule.planned_anew(plan, step - 1)
            bound = steepest(config, Lengths(1, planned[step]), step)
        assert schedule is not None
        if step == schedule.total_steps:
            return factors, bounds
        factors.append(schedule(step))
        bounds.append(bound)
    raise AssertionError


def steepest(config: ScheduleConfig, lengths: Lengths, num_done: int) -> float:
    """Of the plan's warmup, and of its fall, in the updates that are left if these are fewer."""
    phases, left = schedule_phases(config, lengths), lengths.max_steps - num_done
    fall, curve = phases.decay_steps, 1.0
    if config.kind is ScheduleKind.cosine:
        fall, curve = lengths.max_steps - 1 - phases.warmup_steps, math.pi / 2
    return max(1 / (phases.warmup_steps + 1), curve * (1 - config.min_ratio) / max(1, min(fall, left)))


@settings(max_examples=200, deadline=None)
@given(planned_runs())
def test_new_plans_keep_the_place_on_the_way_up_and_down(
    run: tuple[ScheduleConfig, list[tuple[int, int]]],
) -> None:
    """The laws in the module's docstring."""
    config, plans = run
    factors, bounds = follow(config, plans)
    steps = [after - before for before, after in itertools.pairwise([0.0, *factors])]
    for step, (change, bound) in enumerate(zip(steps, bounds, strict=True)):
        assert abs(change) <= bound + 1e-9, step
    peak = factors.index(max(factors))
    assert min(steps[: peak + 1]) >= 0
    assert max(steps[peak + 1 :], default=0.0) <= 1e-12
    last = make_schedule(config, Lengths(1, plans[-1][1]))
    if last.decay_steps and max(factors) >= config.min_ratio:
        assert factors[-1] == pytest.approx(config.min_ratio)


@settings(deadline=None)
@given(KINDS, st.integers(0, 20), st.lists(st.integers(60, 300), min_size=1, max_size=4))
def test_a_warmup_in_steps_is_that_of_any_plan(kind: ScheduleKind, warmup: int, totals: list[int]) -> None:
    config = ScheduleConfig(kind, StepUnit.steps, warmup, 20)
    factors, _ = follow(config, [(0, 1000), *((3 * (i + 1), total) for i, total in enumerate(totals))])
    plain = [(step + 1) / (warmup + 1) for step in range(warmup)]
    assert factors[:warmup] == plain
    assert kind is ScheduleKind.cosine or factors[max(warmup, 15)] == 1


def test_a_fall_that_has_begun_is_not_taken_back_by_a_longer_warmup() -> None:
    """A warmup of a tenth of a run that becomes ten times as long would still go on."""
    config = ScheduleConfig(ScheduleKind.cosine, warmup=0.1)
    factors, _ = follow(config, [(0, 100), (40, 1000)])
    assert factors[39] < 0.85
    assert max(factors[40:]) <= factors[39]


def test_the_first_plan_of_an_assumed_length_goes_on_with_the_warmup() -> None:
    """After 3 of 20 updates of it; that of 100 has 2, and would be over."""
    config = ScheduleConfig(ScheduleKind.wsd, warmup=0.02, decay=0.2)
    factors, _ = follow(config, [(0, 1000), (3, 100)])
    expected = [1 / 21, 2 / 21, 3 / 21, 3 / 21 + 1 / 3, 3 / 21 + 2 / 3, 1]
    assert factors[:6] == pytest.approx(expected)


def test_a_new_plan_before_the_fall_is_that_of_its_length() -> None:
    first, second = (
        make_schedule(ScheduleConfig(ScheduleKind.wsd, warmup=5, decay=0.2), Lengths(1, n)) for n in (100, 60)
    )
    planned = first.planned_anew(second, 20)
    assert [planned(step) for step in range(60)] == [second(step) for step in range(60)]


def test_tokens_are_rounded_up_to_steps() -> None:
    in_tokens = _factors(10, 100, kind=ScheduleKind.wsd, warmup=201, decay=400, unit=StepUnit.tokens)
    assert in_tokens == _factors(10, kind=ScheduleKind.wsd, warmup=3, decay=4)


def test_lengths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="exceed the run's 5 steps"):
        _factors(5, kind=ScheduleKind.wsd, warmup=3, decay=3)


@pytest.mark.parametrize("length", [-1, 1.5])
def test_lengths_that_are_none_are_refused(length: float) -> None:
    with pytest.raises(ValueError, match=rf"training.schedule.warmup={length:g} is neither a share"):
        _factors(5, warmup=length)


def test_shares_are_rounded_down_to_steps() -> None:
    shares = {"kind": ScheduleKind.wsd, "warmup": 0.29, "decay": 0.4, "unit": StepUnit.tokens}
    assert _factors(100, 7, **shares) == _factors(100, kind=ScheduleKind.wsd, warmup=29, decay=40)
    assert _factors(3, kind=ScheduleKind.wsd, warmup=0.5, decay=0.5) == pytest.approx([0.5, 1, 0.1])
    assert _factors(1, kind=ScheduleKind.wsd, warmup=0.02, decay=0.2) == [1]


def test_lambda_rises_from_zero_to_one() -> None:
    assert [lambda_at(step, 4) for step in (0, 1, 2, 4, 9)] == [0, 0.25, 0.5, 1, 1]
    assert lambda_at(0, 0) == 1
