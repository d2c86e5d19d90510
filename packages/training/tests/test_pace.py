"""Stage 1.5 planned into a time: on invented machines, by a clock that only they move."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from wf_formats.run_files import PROGRESS_FILE, read_progress
from wrinklefree.config.ternarize import TernarizeConfig
from wrinklefree.stages.budget import (
    DISTIL_LEAST,
    REFINE_LEAST,
    Bounds,
    Costs,
    plan_blocks,
    plan_steps,
)
from wrinklefree.stages.pace import Pace

pytestmark = pytest.mark.usefixtures("unsynced")

REFINE, DISTIL = Bounds(16, 64, 128), Bounds(10, 60, 2000)
COSTS = Costs(block_s=1.0, refine_step_s=0.03, distil_step_s=1.0)


@pytest.mark.parametrize(
    ("left_s", "steps"),
    [
        (30 * (1 + 64 * 0.03) + 60, (64, 60)),
        (30 * (1 + 64 * 0.03) + 500, (64, 500)),
        (30 * (1 + 40 * 0.03) + 60.5, (40, 60)),
        (30 * (1 + 16 * 0.03) + 30.5, (16, 30)),
        (30 * (1 + 100 * 0.03) + 2000.5, (100, 2000)),
        (10_000, (128, 2000)),
        (20, (16, 10)),
    ],
    ids=["usual", "more distils", "less refines", "both least", "text ends", "most of both", "too little"],
)
def test_what_time_is_given_to(left_s: float, steps: tuple[int, int]) -> None:
    plan = plan_blocks(left_s, 30, COSTS, REFINE, DISTIL)
    assert (plan.refine_steps, plan.distil_steps) == steps
    is_possible = left_s >= 30 * (1 + 16 * 0.03) + 10
    assert (plan.seconds <= left_s) == is_possible


def test_without_a_distillation_time_goes_to_refinement() -> None:
    plan = plan_blocks(30 * (1 + 80.5 * 0.03), 30, COSTS, REFINE, Bounds(0, 0, 0))
    assert (plan.refine_steps, plan.distil_steps) == (80, 0)


def test_steps_that_are_done_stay() -> None:
    assert plan_steps(-5.0, 120, 1.0, DISTIL) == 120
    assert plan_steps(-5.0, 4, 1.0, DISTIL) == 10
    assert plan_steps(50.5, 120, 1.0, DISTIL) == 170
    assert plan_steps(1e9, 120, 1.0, DISTIL) == 2000


# ---- a whole stage


class Parts(dict[str, Any]):
    """A PartStore in memory, of JSON values."""

    def save(self, name: str, tensors: Any, report: dict[str, Any]) -> None:
        self[name] = json.dumps(report)

    def load(self, name: str) -> tuple[None, dict[str, Any]]:
        return None, json.loads(self[name])


_SAVING_S = 13.0


@dataclass
class Machine:
    """A stage 1.5 that only takes time.

    slow: how much slower the machine is, at a time in seconds.
    """

    folder: Path
    options: TernarizeConfig
    num_blocks: int = 30
    slow: Callable[[float], float] = lambda _: 1.0
    block_s: float = 3.0
    refine_step_s: float = 0.03
    distil_step_s: float = 1.3
    now_s: float = 1000.0
    parts: Parts = field(default_factory=Parts)
    refine_steps: list[int] = field(default_factory=list)
    schedule: list[int] = field(default_factory=list)
    """Per distillation step, how many there were to be."""
    said: list[tuple[float, float]] = field(default_factory=list)
    """Time and what was said to be left."""

    def work(self, seconds: float) -> None:
        self.now_s += seconds * self.slow(self.now_s - 1000.0)

    def run(self, blocks_done: int = 0, stop_at_step: int | None = None) -> float:
        """Returns the seconds that it took."""
        began_s = self.now_s
        run: Any = SimpleNamespace(path=self.folder, parts=self.parts)
        pace = Pace(self.options, run, lambda: self.now_s)
        self.work(7.0)
        pace.loaded(_SAVING_S * self.slow(self.now_s - 1000.0))
        self.work(6.0)
        pace.prepared(self.num_blocks, self.options.distil_steps)
        for index in range(self.num_blocks):
            self._block(pace, is_done=index < blocks_done)
        pace.distilling()
        done = 0
        while done < (steps := pace.distil_steps(done)):
            self.schedule.append(steps)
            self.work(self.distil_step_s)
            done += 1
            pace.distilled(done, 1.5)
            self._listen()
            if done == stop_at_step:
                return self.now_s - began_s
        self.work(6.0 + _SAVING_S)
        pace.finished()
        return self.now_s - began_s

    def _block(self, pace: Pace, is_done: bool) -> None:
        steps = pace.refine_steps()
        if not is_done:
            self.work(self.block_s / 2)
            pace.refining()
            self.work(steps * self.refine_step_s)
            pace.refined(steps)
        self.work(self.block_s / 2)
        pace.passed()
        self.refine_steps.append(steps)
        self._listen()

    def _listen(self) -> None:
        progress = read_progress(self.folder)
        assert progress is not None
        assert progress.left_s is not None
        self.said.append((self.now_s, progress.left_s))


def planned(minutes: float | None = 8.0, **changes: Any) -> TernarizeConfig:
    return TernarizeConfig(minutes=minutes, refine_steps=128, distil_steps=2000, **changes)


MACHINES: dict[str, dict[str, Any]] = {
    "fast": {},
    "very fast": {"slow": lambda _: 0.2},
    "half as fast": {"slow": lambda _: 2.0},
    "slow from the middle of the blocks": {"slow": lambda s: 1.0 if s < 70 else 2.0},
    "slow from the middle of the distillation": {"slow": lambda s: 1.0 if s < 300 else 2.0},
    "fast at last": {"slow": lambda s: 2.0 if s < 200 else 1.0},
    "60 blocks": {"num_blocks": 60, "distil_step_s": 2.6},
    "expensive steps of the distillation": {"distil_step_s": 4.0},
}


@pytest.mark.parametrize("kind", MACHINES)
def test_it_ends_in_time(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And uses the time: on every machine at least nine tenths, unless there is nothing more to do."""
    machine = Machine(tmp_path, planned(), **MACHINES[kind])
    took_s = machine.run()
    assert 0.9 * 480 < took_s <= 481 or (machine.refine_steps[-1], machine.schedule[-1]) == (128, 2000)
    assert all(REFINE_LEAST <= steps <= 128 for steps in machine.refine_steps)
    assert len(machine.schedule) >= DISTIL_LEAST
    assert "do not fit" not in caplog.text
    assert not (tmp_path / PROGRESS_FILE).exists()


@pytest.mark.parametrize("kind", ["fast", "half as fast", "60 blocks"])
def test_the_time_left_is_held(kind: str, tmp_path: Path) -> None:
    """Within a fifth, once a block is measured."""
    machine = Machine(tmp_path, planned(), **MACHINES[kind])
    machine.run()
    for at_s, left_s in machine.said:
        assert left_s == pytest.approx(machine.now_s - at_s, rel=0.2, abs=4.0)


def test_a_slower_machine_makes_do_with_less(tmp_path: Path) -> None:
    fast, slow = Machine(tmp_path, planned()), Machine(tmp_path, planned(), slow=lambda _: 2.0)
    assert abs(fast.run() - slow.run()) < 10
    assert len(slow.schedule) < len(fast.schedule)


def test_what_cannot_fit_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine(tmp_path, planned(1.0))
    took_s = machine.run()
    assert caplog.text.count("the least steps do not fit into training.ternarize.minutes=1") == 1
    said_s = [int(m) * 60 + int(s) for m, s in re.findall(r"about (\d+):(\d+)", caplog.text)]
    assert said_s == [pytest.approx(took_s, abs=5)]
    assert machine.refine_steps[1:] == [REFINE_LEAST] * 29
    assert len(machine.schedule) == DISTIL_LEAST


def test_without_minutes_steps_are_those_configured(tmp_path: Path) -> None:
    machine = Machine(tmp_path, TernarizeConfig(refine_steps=7, distil_steps=33))
    machine.run()
    assert machine.refine_steps == [7] * 30
    assert machine.schedule == [33] * 33
    assert not machine.parts
    for at_s, left_s in machine.said:
        assert left_s == pytest.approx(machine.now_s - at_s, rel=0.2, abs=4.0)


def test_a_run_that_goes_on_takes_the_decisions_that_were_made(tmp_path: Path) -> None:
    """Until where it was stopped; after that the time that is left counts, that of the first run off."""
    first = Machine(tmp_path, planned(save_every_steps=20))
    first_s = first.run(stop_at_step=50)
    again = Machine(tmp_path, planned(save_every_steps=20), parts=first.parts, slow=lambda _: 0.5)
    again_s = again.run(blocks_done=30)
    assert again.refine_steps == first.refine_steps
    assert again.schedule[:50] == first.schedule
    assert again.schedule[-1] != first.schedule[-1]
    # What the first run did after its last decision is done again, and not counted.
    assert first_s + again_s <= 480 + 10 * first.distil_step_s + 1


def test_a_share_of_the_time_after_the_blocks_is_left_over(tmp_path: Path) -> None:
    """The blocks are as without it, the distillation has its share, and a run that goes on keeps to it."""
    whole, part = Machine(tmp_path, planned()), Machine(tmp_path, planned(distil_share=0.25))
    took_s = whole.run()
    left_over_s = took_s - part.run()
    assert part.refine_steps == whole.refine_steps
    assert left_over_s == pytest.approx(0.75 * len(whole.schedule) * whole.distil_step_s, rel=0.03)
    for at_s, left_s in part.said:
        assert left_s == pytest.approx(part.now_s - at_s, rel=0.2, abs=4.0)
    stopped = Machine(tmp_path, planned(distil_share=0.25))
    stopped.run(stop_at_step=20)
    again = Machine(tmp_path, stopped.options, parts=stopped.parts)
    again.run(blocks_done=30)
    assert len(again.schedule) == pytest.approx(len(part.schedule), abs=40)


def test_no_plan_asks_for_more_text_than_there_is(tmp_path: Path) -> None:
    machine = Machine(tmp_path, planned())
    machine.options.distil_steps = 25
    machine.run()
    assert len(machine.schedule) == 25
    assert max(machine.refine_steps) == 128
