"""Stages with gradients planned into a time: on invented machines, and for real by an invented clock."""

from __future__ import annotations

import csv
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wf_formats.run_files import PROGRESS_FILE, read_progress
from wrinklefree import callbacks as cb
from wrinklefree.callbacks import pacing
from wrinklefree.compose.composing import compose_config
from wrinklefree.config.lengths import Lengths, check_lengths, gradient_options, least_steps, run_lengths
from wrinklefree.errors import RunError
from wrinklefree.stages import fit, step_pace
from wrinklefree.stages.step_pace import StepPace
from wrinklefree.stages.watch import Watch, clock_time

pytestmark = pytest.mark.usefixtures("unsynced")


@dataclass
class Machine:
    """A stage with gradients that only takes time.

    slow: how much slower the machine is, at a time in seconds.
    """

    folder: Path
    minutes: float | None = 8.0
    slow: Callable[[float], float] = lambda _: 1.0
    load_s: float = 7.0
    step_s: float = 1.3
    save_every_steps: int = 100
    save_s: float = 9.0
    result_share: float = 0.5
    misjudged: float = 1.0
    """What saving seems to take at first, over what it takes."""
    least: int = 10
    now_s: float = 1000.0
    listens: bool = False
    """Whether progress is read after each step."""
    plans: list[int] = field(default_factory=list)
    """After each step, how many there were to be."""
    said: list[tuple[float, float]] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)

    def work(self, seconds: float) -> None:
        self.now_s += seconds * self.slow(self.now_s - 1000.0)

    def run(self, done: int = 0, stop_at_step: int | None = None) -> float:
        """Returns the seconds that it took."""
        began_s = self.now_s
        watch = Watch(self.folder, "training.minutes", self.minutes, lambda: self.now_s)
        pace = StepPace(watch, 1000, self.least, self.save_every_steps)
        if self.state:
            pace.load_state_dict(self.state)
        self.work(self.load_s)
        pace.loaded(self.save_s * self.result_share * self.misjudged)
        while done < pace.num_steps:
            self.work(self.step_s)
            done += 1
            pace.stepped(done)
            self.plans.append(pace.num_steps)
            if self.listens:
                self._listen()
            if done % self.save_every_steps == 0 or done == stop_at_step:
                self.state = pace.state_dict()
                self.work(self.save_s)
                pace.saved(self.result_share)
            if done == stop_at_step:
                return self.now_s - began_s
        self.work(self.save_s * self.result_share)
        pace.finished()
        return self.now_s - began_s

    def _listen(self) -> None:
        """It is written once a second at most."""
        progress = read_progress(self.folder)
        if progress is not None:
            assert progress.left_s is not None
            self.said.append((self.now_s, progress.left_s))


MACHINES: dict[str, dict[str, Any]] = {
    "fast": {},
    "very fast": {"slow": lambda _: 0.1},
    "half as fast": {"slow": lambda _: 2.0},
    "slow from the middle": {"slow": lambda s: 1.0 if s < 240 else 2.0},
    "slow at the end": {"slow": lambda s: 1.0 if s < 420 else 3.0},
    "fast from the middle": {"slow": lambda s: 2.0 if s < 240 else 1.0},
    "few long steps": {"step_s": 20.0},
    "without checkpoints": {"save_every_steps": 10_000},
}


@pytest.mark.parametrize("kind", MACHINES)
def test_it_ends_in_time(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And uses nine tenths of it."""
    machine = Machine(tmp_path, **MACHINES[kind])
    took_s = machine.run()
    late_s = machine.slow(1e9) * machine.step_s  # where the machine slows down during the last steps
    assert 0.9 * 480 < took_s <= 480 + late_s
    assert len(machine.plans) == machine.plans[-1]
    assert "do not fit" not in caplog.text
    assert not (tmp_path / PROGRESS_FILE).exists()


@pytest.mark.parametrize("kind", ["fast", "half as fast", "few long steps"])
def test_the_time_left_is_held(kind: str, tmp_path: Path) -> None:
    """Within a fifth, once steps are measured."""
    machine = Machine(tmp_path, listens=True, **MACHINES[kind])
    machine.run()
    for at_s, left_s in machine.said[3:]:
        assert left_s == pytest.approx(machine.now_s - at_s, rel=0.2, abs=10.0)


@pytest.mark.parametrize("at_s", [5, 20, 25, 29])
def test_a_sharp_slowdown_costs_one_step(at_s: float, tmp_path: Path) -> None:
    """Ten times slower at once: twenty steps, a plan apart before, would take 10 s of the 36."""
    machine = Machine(tmp_path, 0.6, load_s=0.25, step_s=0.05, save_every_steps=10_000, save_s=0.5)
    machine.slow = lambda now_s: 1.0 if now_s < at_s else 10.0
    assert 0.8 * 36 < machine.run() <= 36 + 10 * 0.05


def test_one_late_step_near_the_end_does_not_cut_the_run_off(tmp_path: Path) -> None:
    calm, stalled = (
        Machine(tmp_path, 1.0, step_s=0.02, save_every_steps=10_000, save_s=0.5) for _ in range(2)
    )
    calm.run()
    stalled.slow = lambda now_s: 50.0 if 44 < now_s < 44.03 else 1.0
    stalled.run()
    assert len(calm.plans) - 60 < len(stalled.plans) < len(calm.plans)


def test_a_slower_machine_makes_do_with_fewer_steps(tmp_path: Path) -> None:
    fast, slow = Machine(tmp_path), Machine(tmp_path, slow=lambda _: 2.0)
    assert abs(fast.run() - slow.run()) < 20
    assert len(slow.plans) < 0.6 * len(fast.plans)


def test_without_minutes_steps_are_those_configured(tmp_path: Path) -> None:
    machine = Machine(tmp_path, minutes=None, listens=True)
    machine.run()
    assert machine.plans == [1000] * 1000
    assert machine.state == {}
    assert machine.said[500][1] == pytest.approx(machine.now_s - machine.said[500][0], rel=0.1)


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    load_s=st.floats(0.1, 60),
    step_s=st.floats(0.5, 20),
    save_s=st.floats(0.1, 20),
    result_share=st.floats(0.33, 1),
    misjudged=st.floats(0.8, 2),
    save_every_steps=st.integers(10, 2000),
)
def test_no_run_ends_later_than_by_a_step_and_a_save(tmp_path: Path, **machine: Any) -> None:
    """However long loading and saving take beside each other."""
    run = Machine(tmp_path, **machine)
    took_s = run.run()
    assert took_s <= 480 + run.step_s + run.save_s
    assert took_s > 0.9 * 480 - run.step_s - 6 * run.save_s, "what was kept for checkpoints that were shorter"


def test_saving_is_not_taken_for_loading(tmp_path: Path) -> None:
    """A machine that loads for a minute and saves in a second had two minutes left over."""
    assert Machine(tmp_path, load_s=60.0, save_s=1.0).run() > 475


def test_what_cannot_fit_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine(tmp_path, minutes=0.1)
    with caplog.at_level("INFO", "wrinklefree"):
        machine.run()
    assert len(machine.plans) == 10
    assert "steps fit into" not in caplog.text
    assert caplog.text.count("the least steps do not fit into training.minutes=0.1") == 1


def test_more_steps_of_warmup_than_there_is_time_for(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"training.minutes=8 has time for about 3\d\d steps, .* need 2000"):
        Machine(tmp_path, least=2000).run()


def test_a_schedule_in_steps_is_kept_on_a_machine_that_slows_down(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(tmp_path, least=250, slow=lambda s: 1.0 if s < 100 else 5.0)
    machine.run()
    assert len(machine.plans) == 250
    assert "the least steps do not fit into training.minutes=8" in caplog.text


def test_a_run_that_goes_on_keeps_plan_and_time(tmp_path: Path) -> None:
    """Pauses do not count; the plan holds until steps are measured again."""
    first = Machine(tmp_path)
    first_s = first.run(stop_at_step=130)
    again = Machine(tmp_path, state=first.state, slow=lambda _: 2.0, now_s=50_000.0)
    again_s = again.run(done=130)
    assert again.plans[:2] == [first.plans[-1]] * 2
    assert again.plans[-1] < first.plans[-1]
    assert 0.9 * 480 < first_s + again_s <= 480 + first.save_s + 2 * again.step_s


@pytest.mark.parametrize(
    ("options", "least"),
    [
        ([], 10),
        (["schedule.warmup=100", "schedule.decay=0.2"], 124),
        (["schedule.unit=tokens", "schedule.warmup=81920", "schedule.decay=0"], 20),
        (["schedule.warmup=0", "schedule.decay=1.0", "schedule.unit=steps"], 10),
        (["lambda_warmup_steps=40"], 41),
    ],
)
def test_steps_that_a_schedule_needs(options: list[str], least: int) -> None:
    minutes = ["max_steps=null", "minutes=5", "schedule.kind=wsd", *options]
    config = compose_config(["training=stage2_pretrain", *[f"training.{option}" for option in minutes]])
    lengths = run_lengths(config)
    assert lengths.max_steps == 1000
    assert least_steps(gradient_options(config), lengths.tokens_per_step) == least


def test_steps_that_a_curriculum_needs() -> None:
    phases = "{share: 0.999, weights: {a: 1}}, {share: 0.001, weights: {a: 1}}".replace(
        "a:", "continue_pretrain:"
    )
    options = ["max_steps=null", "minutes=5", f"curriculum=[{phases}]"]
    config = compose_config(["training=stage2_pretrain", *[f"training.{option}" for option in options]])
    assert 500 <= least_steps(gradient_options(config), 1) <= 1001


@pytest.mark.parametrize("first", [0.1, 0.5, 0.9])
def test_from_the_least_steps_on_a_curriculum_fits_into_any_number(first: float) -> None:
    """Ends of phases are rounded: 0.5 and 0.501 of 501 steps are two, of 503 one."""
    weights = "weights: {continue_pretrain: 1}"
    shares = (first, 0.001, 1 - first - 0.001)
    phases = ", ".join(f"{{share: {share}, {weights}}}" for share in shares)
    options = ["max_steps=null", "minutes=5", f"curriculum=[{phases}]"]
    config = compose_config(["training=stage2_pretrain", *[f"training.{option}" for option in options]])
    training = gradient_options(config)
    least = least_steps(training, 1)
    for num_steps in range(least, least + 1000):
        check_lengths(training, Lengths(1, num_steps))


def test_all_ranks_plan_when_the_first_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their clocks differ; they would wait for each other without end if one planned alone."""
    barrier, values = threading.Barrier(2, timeout=20), [None, None]
    ranks = {name: Machine(tmp_path / name, 1.0) for name in ("0", "1")}
    ranks["1"].slow = lambda now_s: 3.0 if now_s > 20 else 0.1

    def gather(value: Any) -> list[Any]:
        values[int(threading.current_thread().name)] = value
        barrier.wait()
        gathered = list(values)
        barrier.wait()
        return gathered

    monkeypatch.setattr(step_pace, "gather_from_ranks", gather)
    threads = [threading.Thread(target=machine.run, name=name) for name, machine in ranks.items()]
    for name, thread in zip(ranks, threads, strict=True):
        (tmp_path / name).mkdir()
        thread.start()
    for thread in threads:
        thread.join()
    assert ranks["0"].plans == ranks["1"].plans
    assert len(ranks["0"].plans) == ranks["0"].plans[-1]


def test_times_for_people() -> None:
    assert [clock_time(s) for s in (0.4, 65, 3661)] == ["0:00", "1:05", "1:01:01"]


# ---- real runs, by a clock that steps alone move


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A step takes a second, from step 8 on `slow` of them."""
    clock = Clock()
    original = cb.Progress.on_step_end

    def step(self: cb.Progress, trainer: Any, module: Any, done: int) -> None:
        clock.now_s += 1.0 if done < 8 else clock.slow
        original(self, trainer, module, done)

    clock.slow = 1.0  # type: ignore[attr-defined]
    monkeypatch.setattr(cb.Progress, "on_step_end", step)
    monkeypatch.setattr(fit, "Watch", partial(Watch, clock=clock))
    monkeypatch.setattr(pacing, "saving_s", lambda *_: 0.0)  # that of the real clock
    return clock


def rates(run: Any) -> list[float]:
    with (run.folder / "metrics.csv").open() as file:
        return [float(row["train/learning_rate"]) for row in csv.DictReader(file)]


OPTIONS = ["training.schedule.kind=cosine", "training.learning_rate=1e-2", "training.accumulate_steps=2"]
MINUTES = [*OPTIONS, "training.max_steps=null", "training.minutes=0.25"]


@contextmanager
def stopped_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    original = cb.StepLog.on_step_end

    def stop(self: cb.StepLog, trainer: Any, module: Any, done: int) -> None:
        original(self, trainer, module, done)
        if done == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(cb.StepLog, "on_step_end", stop)
        yield


def test_a_planned_run_is_that_of_as_many_steps_stopped_or_not(
    cli_from_stage1: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its warmup is in steps, so that the first steps, before the plan, are the same too."""
    start = partial(cli_from_stage1, "stage2_pretrain")
    fixed = start(*OPTIONS, "training.max_steps=15", experiment="fixed")
    planned = start(*MINUTES, experiment="planned")
    assert (fixed.code, planned.code) == (0, 0)
    assert len(planned.losses) == 15
    assert planned.losses == fixed.losses
    assert planned.weights == fixed.weights
    with stopped_at(6, monkeypatch):
        assert start(*MINUTES, experiment="stopped").code == 128 + signal.SIGTERM
    clock.now_s += 3600
    resumed = start(*MINUTES, experiment="stopped")
    assert resumed.code == 0
    assert resumed.losses == planned.losses
    assert resumed.weights == planned.weights


@pytest.mark.parametrize("stops_at", [None, 9])
def test_a_run_on_a_machine_that_slows_down_ends_in_time(
    cli_from_stage1: Any,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    stops_at: int | None,
) -> None:
    """And its learning rate only falls, also where it was stopped after the plan became another."""
    clock.slow = 2.0  # type: ignore[attr-defined]
    start = partial(cli_from_stage1, "stage2_pretrain", *MINUTES, "training.schedule.warmup=0.1")
    with caplog.at_level("INFO", "wrinklefree"):
        if stops_at is not None:
            with stopped_at(stops_at, monkeypatch):
                assert start().code == 128 + signal.SIGTERM
        run = start()
    assert run.code == 0
    assert 10 <= len(run.losses) <= 12
    assert clock.now_s <= 15 + 2
    assert rates(run)[-1] == pytest.approx(1e-3)
    assert max(rates(run)) <= 1e-2
    found = rates(run)  # the first plan, with a warmup of 1 step instead of 100, comes after three steps
    peak = found.index(max(found))
    assert found[: peak + 1] == sorted(found[: peak + 1])
    assert found[peak:] == sorted(found[peak:], reverse=True)
    assert max(abs(after - before) for before, after in pairwise(found)) < 0.51e-2
    assert "15 steps fit into training.minutes=0.25" in caplog.text
    assert "0:00 left" in caplog.text
