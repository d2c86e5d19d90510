"""Proposing weights from trials of mixtures, with losses that are known."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wf_formats.errors import LoadError, RequestError
from wrinklefree.data_choice.mixing import propose
from wrinklefree.data_choice.trials import NUM_TESTS, TEST_ORDERS, Plan, Record, Trial, least_mixtures

NAMES = ["a", "b", "c"]
LossOf = Callable[[Mapping[str, float], int], float]


def bowl(weights: Mapping[str, float], order: int) -> float:
    """Least at 0.7, 0.2, 0.1; orders differ by more than mixtures near that do."""
    target = {"a": 0.7, "b": 0.2, "c": 0.1}
    return 3.0 + sum((weights[name] - target[name]) ** 2 for name in NAMES) + 0.1 * order


def proposed(folder: Path, loss_of: LossOf, mixtures: int = 16) -> dict[str, Any]:
    record = Record(folder, {"kind": "test"})
    plan = Plan(None, mixtures)
    return propose(NAMES, loss_of, record, plan, 0, time.monotonic(), lambda done, total, note: None)


def test_a_better_mixture_is_found_and_tested(tmp_path: Path) -> None:
    result = proposed(tmp_path, bowl)
    assert result["is_better_than_equal"]
    assert list(result["weights"].values()) == pytest.approx([0.7, 0.2, 0.1], abs=0.05)
    assert sum(result["weights"].values()) == pytest.approx(1)
    assert result["gain_nats"] == pytest.approx(bowl(dict.fromkeys(NAMES, 1 / 3), 0) - 3.0, abs=0.01)
    assert result["held_out_rank_correlation"] > 0.9
    assert len(result["equal_losses"]) == len(result["proposed_losses"]) == len(TEST_ORDERS)


def test_no_trial_of_the_fit_is_one_of_the_test(tmp_path: Path) -> None:
    """What lucky trials in the fit would give away for nothing."""
    asked: list[tuple[tuple[float, ...], int]] = []

    def noting(weights: Mapping[str, float], order: int) -> float:
        asked.append((tuple(weights.values()), order))
        return bowl(weights, order)

    result = proposed(tmp_path, noting)
    fitted, tested = asked[:16], asked[16:]
    assert not {order for _, order in fitted} & {order for _, order in tested}
    equal, best = (1 / 3,) * 3, tuple(result["proposed"].values())
    assert tested == [(pytest.approx(weights), order) for order in TEST_ORDERS for weights in (equal, best)]


def test_chance_is_seldom_called_better(tmp_path: Path) -> None:
    """Losses that do not depend on the mixture: 5 % of such runs may pass the test, more than 2 of 12 not."""
    num_better = 0
    for seed in range(12):
        generator = np.random.default_rng(seed)
        result = proposed(
            tmp_path / str(seed),
            lambda weights, order, generator=generator: 3.0 + generator.normal(0, 0.1),
        )
        num_better += result["is_better_than_equal"]
        assert result["proposed"] != dict.fromkeys(NAMES, pytest.approx(1 / 3))
        taken = result["proposed"] if result["is_better_than_equal"] else dict.fromkeys(NAMES, 1 / 3)
        assert result["weights"] == pytest.approx(taken)
    assert num_better <= 2


def test_a_worse_proposal_is_not_taken(tmp_path: Path) -> None:
    """The first order of the data misleads: in the others the proposed mixture is worse."""
    result = proposed(
        tmp_path, lambda weights, order: bowl(weights, 0) if order == 0 else 9 - bowl(weights, 0)
    )
    assert result["gain_nats"] < 0
    assert not result["is_better_than_equal"]


@pytest.mark.parametrize("stop_at", [0, 1, 7, 16, 18, 20])
def test_trials_are_kept_when_it_is_stopped(tmp_path: Path, stop_at: int) -> None:
    whole = proposed(tmp_path / "whole", bowl)
    calls: list[int] = []

    def stopping(weights: Mapping[str, float], order: int) -> float:
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        calls.append(order)
        return bowl(weights, order)

    with pytest.raises(KeyboardInterrupt):
        proposed(tmp_path / "again", stopping)
    rest: list[int] = []

    def counting(weights: Mapping[str, float], order: int) -> float:
        rest.append(order)
        return bowl(weights, order)

    again = proposed(tmp_path / "again", counting)
    assert len(calls) + len(rest) == 16 + NUM_TESTS
    assert {**again, "seconds": 0} == {**whole, "seconds": 0}


def test_more_mixtures_do_not_change_a_test_that_has_begun(tmp_path: Path) -> None:
    calls: list[int] = []

    def stopping(weights: Mapping[str, float], order: int) -> float:
        if len(calls) == 18:  # within the test
            raise KeyboardInterrupt
        calls.append(order)
        return bowl(weights, order)

    with pytest.raises(KeyboardInterrupt):
        proposed(tmp_path, stopping)
    assert proposed(tmp_path, bowl, mixtures=40)["num_mixtures"] == 16


def test_a_record_of_something_else_is_refused(tmp_path: Path) -> None:
    record = Record(tmp_path, {"steps": 40})
    record.write()
    with pytest.raises(RequestError, match="another request: steps is 40 there and 60 here"):
        Record(tmp_path, {"steps": 60})
    record.write({"weights": {}})
    with pytest.raises(RequestError, match="has the result of this request"):
        Record(tmp_path, {"steps": 40})
    (tmp_path / "mix.json").write_text('{"request": {}}')
    with pytest.raises(LoadError, match="is damaged"):
        Record(tmp_path, {"steps": 40})


def trials(count: int, seconds: float) -> list[Trial]:
    return [Trial((0.5, 0.5), 0, 3.0, seconds)] * count


def test_minutes_become_mixtures_and_the_test_of_the_result() -> None:
    """10 s each in 5 minutes, 20 s of which went by before: 28 models, 6 of them for the test."""
    plan, least = Plan(5.0, None), least_mixtures(2)
    count = 0
    while plan.goes_on(trials(count, 10.0), 20 + 10.0 * count, least):
        count += 1
    assert count == 22
    assert plan.total(trials(1, 10.0), 30.0) == pytest.approx(22)


def test_too_few_minutes_are_refused_after_the_first_model() -> None:
    plan = Plan(1.0, None)
    assert plan.goes_on([], 5.0, 8)
    with pytest.raises(
        RequestError, match=r"--minutes 1 are too few: a small model takes 10 s, and 8 mixtures"
    ):
        plan.goes_on(trials(1, 10.0), 15.0, 8)


def test_a_machine_that_slows_down_has_the_least_number() -> None:
    assert not Plan(5.0, None).goes_on(trials(8, 60.0), 480.0, 8)
