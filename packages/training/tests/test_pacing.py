"""What follows the plans of a run: rates, phases and weight decay, stopped and resumed anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wrinklefree import callbacks as cb
from wrinklefree.callbacks import pacing
from wrinklefree.config.curriculum import PhaseConfig, Transition
from wrinklefree.config.lengths import Lengths
from wrinklefree.config.training import GradientConfig, ScheduleConfig, ScheduleKind
from wrinklefree.course import Course
from wrinklefree.objectives.weights import weight_schedule
from wrinklefree.schedules import make_schedule

PHASES = [
    PhaseConfig(0.3, {"a": 1.0}),
    PhaseConfig(0.4, {"b": 1.0}, Transition.linear),
    PhaseConfig(0.3, {"c": 1.0}),
]
WSD = ScheduleConfig(ScheduleKind.wsd, warmup=0.1, decay=0.4)
DECAYED = 0.6
"""The share of the run with weight decay."""


@dataclass
class Pace:
    """Plans from a table: after so many steps, how many there are to be."""

    plans: dict[int, int]
    num_steps: int = 0

    def stepped(self, num_done: int) -> None:
        if num_done < self.num_steps:
            self.num_steps = self.plans.get(num_done, self.num_steps)

    def state_dict(self) -> dict[str, Any]:
        return {"num_steps": self.num_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num_steps = state["num_steps"]


@dataclass
class Run:
    """A run of a trainer that only counts."""

    plans: dict[int, int]
    rates: list[float] = field(default_factory=list)
    weights: list[dict[str, float]] = field(default_factory=list)
    is_decayed: list[bool] = field(default_factory=list)

    def start(self, state: str | None = None, stop_at: int | None = None) -> str:
        """Returns the state at the stop, or at the end."""
        training = GradientConfig(stage="x", schedule=WSD, curriculum=PHASES)
        length = self.plans[0]
        module = SimpleNamespace(
            schedule=make_schedule(WSD, Lengths(1, length)),
            course=Course(length),
            objectives=SimpleNamespace(weights=weight_schedule({}, PHASES, Course(length))),
        )
        optimizer = SimpleNamespace(param_groups=[{"lr": 0.0}])
        scheduler = SimpleNamespace(scheduler=SimpleNamespace(base_lrs=[1.0], optimizer=optimizer))
        loop = SimpleNamespace(epoch_loop=SimpleNamespace(max_steps=length), max_batches=0)
        trainer: Any = SimpleNamespace(fit_loop=loop, lr_scheduler_configs=[scheduler], max_steps=length)
        follower = cb.Pacing(Pace(self.plans, length), training, 1)  # type: ignore[arg-type]
        follower.setup(trainer, module, "fit")  # type: ignore[arg-type]
        if state is not None:
            follower.load_state_dict(json.loads(state))
        done = len(self.rates)
        while done < loop.epoch_loop.max_steps:
            self.rates.append(module.schedule(done))
            self.weights.append(dict(module.objectives.weights(done)))
            self.is_decayed.append(module.course.share(done) < DECAYED)
            done += 1
            trainer.max_steps = loop.epoch_loop.max_steps
            follower.on_step_end(trainer, module, done)  # type: ignore[arg-type]
            if loop.epoch_loop.max_steps != trainer.max_steps:
                assert optimizer.param_groups[0]["lr"] == module.schedule(done)
            if done == stop_at:
                break
        return json.dumps(follower.state_dict())


@pytest.fixture(autouse=True, scope="module")
def accept_plain_modules() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pacing, "WrinkleFreeLightningModule", object)
        yield


PLANS = st.dictionaries(st.integers(1, 60), st.integers(12, 400), max_size=5)


def possible(plans: dict[int, int]) -> dict[int, int]:
    """Each leaves a step at least, and the first one is of an assumed length."""
    return {0: 200} | {done: max(steps, done + 1) for done, steps in plans.items()}


@settings(deadline=None)
@given(PLANS)
def test_phases_and_weight_decay_do_not_come_twice(plans: dict[int, int]) -> None:
    run = Run(possible(plans))
    run.start()
    assert run.is_decayed == sorted(run.is_decayed, reverse=True)
    phases = [["a", "ab", "c"].index("".join(sorted(weights))) for weights in run.weights]
    assert phases == sorted(phases)


def test_a_linear_phase_goes_on_from_where_it_was() -> None:
    """Half done, it would be at its beginning again in ten times as many steps."""
    run = Run({0: 100, 50: 1000, 60: 120})
    run.start()
    own = [weights.get("b", 1.0 if "c" in weights else 0.0) for weights in run.weights]
    assert own[49:51] == pytest.approx([0.5, 0.5], abs=0.01)
    changes = [after - before for before, after in pairwise(own)]
    assert min(changes) >= -0.01, "ends of phases are whole steps"
    assert max(changes) < 0.03


@settings(deadline=None)
@given(PLANS, st.integers(1, 80))
def test_a_resumed_run_goes_on_to_the_bit(plans: dict[int, int], stop_at: int) -> None:
    whole, stopped = Run(possible(plans)), Run(possible(plans))
    whole.start()
    stopped.start(stopped.start(stop_at=stop_at))
    assert stopped == whole


def test_the_rest_of_the_phases_is_spread_over_the_steps_that_are_left() -> None:
    """Three tenths of 200, and then of 20 steps, of which 10 are done, would begin before and end at 14."""
    run = Run({0: 200, 10: 20})
    run.start()
    assert [weights.get("a") for weights in run.weights[:13]] == [1.0] * 13
    assert run.weights[-1] == {"c": 1.0}


def test_checkpoints_of_before_go_on() -> None:
    """They knew of the fall alone."""
    run = Run({0: 200})
    state = json.loads(run.start(stop_at=150))
    for key in ("risen", "done"):
        del state[key]
    run.start(json.dumps(state | {"fallen": None}))
    plain = make_schedule(WSD, Lengths(1, 200))
    assert run.rates == [plain(step) for step in range(200)]
