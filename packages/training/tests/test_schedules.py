from __future__ import annotations

from itertools import pairwise

import pytest

from wrinklefree.callbacks.lambda_warmup import lambda_at
from wrinklefree.config.lengths import Lengths
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


@pytest.mark.parametrize("kind", [ScheduleKind.cosine, ScheduleKind.wsd])
@pytest.mark.parametrize("plans", [(345, 230, 300), (100, 400, 150), (200, 190, 191)], ids=str)
def test_a_new_plan_does_not_let_the_rate_jump(kind: ScheduleKind, plans: tuple[int, ...]) -> None:
    """Plans come after 80 and 140 updates; it only falls after the warmup, by small steps, to its end."""
    first, *later = (
        make_schedule(ScheduleConfig(kind, warmup=0.02, decay=0.4), Lengths(1, n)) for n in plans
    )
    schedule, factors = first, []
    for step in range(plans[-1]):
        if step in (80, 140):
            schedule = schedule.planned_anew(later.pop(0), step - 1)
        factors.append(schedule(step))
    falls = [before - after for before, after in pairwise(factors[first.warmup_steps :])]
    assert min(falls) >= 0
    assert max(falls) < (0.05 if plans[1] < 400 else 0.15)
    assert factors[-1] == pytest.approx(first.min_ratio)


def test_a_new_plan_before_the_fall_is_that_of_its_length() -> None:
    first, second = (
        make_schedule(ScheduleConfig(ScheduleKind.wsd, warmup=5, decay=0.2), Lengths(1, n)) for n in (100, 60)
    )
    assert first.planned_anew(second, 20) == second


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
