"""What calibration gets of the time, what is said to be left, and how it is shown."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from wf_formats.run_files import Progress
from wf_quickstart import training
from wf_quickstart.cli import app
from wf_quickstart.context import CALIBRATION, DISTILLATION, Context
from wf_quickstart.display import Display, StepLine, sentence
from wf_quickstart.errors import QuickstartRequestError
from wf_quickstart.options import parse_options
from wf_quickstart.run import plan
from wf_quickstart.state import State
from wf_quickstart.timing import REPORT_S, Glance, Timing
from wf_quickstart.training import DISTILLATION_SETTINGS, SCALES_SHARE, _time_settings


class Machine:
    """A quickstart that only takes time, `slowness` times the usual one."""

    def __init__(
        self,
        output: Path,
        slowness: float,
        minutes: float | None,
        steps: int | None = None,
        distil: bool = False,
    ) -> None:
        self.options = parse_options("packaged", steps, output, [], minutes, distil)
        self.steps = plan(self.options)
        self.state = State(output, self.options.identity())
        self.slowness, self.now_s, self.progress = slowness, 1e9, None
        self.timing = self.make_timing()
        self.began_s = self.now_s
        self.said: list[tuple[float, Glance]] = []

    progress: Progress | None

    def make_timing(self) -> Timing:
        usual_s = {step.name: step.usual_s for step in self.steps}
        return Timing(self.options, self.state, usual_s, lambda: self.progress, lambda: self.now_s)

    def run(self) -> float:
        """Returns the seconds that the whole took."""
        for step in self.steps:
            start_s = self.now_s
            for _ in self.work(step.name, step.usual_s):
                self.said.append((self.now_s, self.timing.glance(step.name, self.now_s - start_s)))
            self.state.add_time(step.name, self.now_s - start_s)
            self.state.record(step.name, step.needs, {})
        self.now_s += REPORT_S
        return self.now_s - self.began_s

    def work(self, name: str, usual_s: float) -> Iterator[None]:
        """A glance every tenth of a step."""
        if name == CALIBRATION:
            yield from self.spend(self.timing.calibration_minutes(), self.calibration_share)
        elif name == DISTILLATION:
            yield from self.spend(self.timing.distillation_minutes(), 1.0)
        else:
            for _ in range(10):
                self.now_s += usual_s * self.slowness / 10
                yield

    @property
    def calibration_share(self) -> float:
        """What stage 1.5 takes of its minutes: with stage 3 half for the blocks, its share of the rest."""
        return 0.5 + 0.5 * SCALES_SHARE if self.options.distil else 1.0

    def spend(self, minutes: float | None, share: float) -> Iterator[None]:
        whole_s = 300 * self.slowness if minutes is None else minutes * 60 * share
        self.now_s += 8.0 * self.slowness
        yield
        for number in range(100):
            left_s = whole_s * (1 - number / 100) * (1.1 if number < 50 else 0.95)  # never quite right
            self.progress = Progress("blocks", number, 100, "", left_s, self.now_s)
            self.now_s += whole_s / 200
            yield
            self.now_s += whole_s / 200
        self.progress = None


@pytest.mark.parametrize("slowness", [0.5, 1.0, 2.0])
def test_it_ends_in_time_and_says_when(slowness: float, tmp_path: Path) -> None:
    """The time left is held within a fifth from the beginning to the end."""
    machine = Machine(tmp_path, slowness, 10.0)
    took_s = machine.run()
    assert 0.9 * 600 < took_s <= 600
    for at_s, glance in machine.said:
        left_s = took_s - (at_s - machine.began_s)
        assert glance.left_s == pytest.approx(left_s, rel=0.2, abs=5.0)
        assert glance.spent_s == pytest.approx(at_s - machine.began_s)
        assert glance.share is not None
        assert 0 <= glance.share < 1


@pytest.mark.parametrize("slowness", [0.5, 1.0, 2.0])
def test_with_stage_3_it_ends_in_time_too(slowness: float, tmp_path: Path) -> None:
    """Stage 3 gets what stage 1.5 has left over, and the time left is held all along."""
    machine = Machine(tmp_path, slowness, 20.0, distil=True)
    took_s = machine.run()
    assert 0.9 * 1200 < took_s <= 1200
    scales_s = machine.state.spent_s(CALIBRATION) * (0.5 * SCALES_SHARE) / machine.calibration_share
    share = scales_s / (scales_s + machine.state.spent_s(DISTILLATION))
    assert share == pytest.approx(SCALES_SHARE, abs=0.05)
    for at_s, glance in machine.said:
        left_s = took_s - (at_s - machine.began_s)
        assert glance.left_s == pytest.approx(left_s, rel=0.2, abs=5.0)


def test_stage_3_keeps_its_time(tmp_path: Path) -> None:
    machine = Machine(tmp_path, 1.0, 20.0, distil=True)
    for step in machine.steps:
        if step.name == DISTILLATION:
            break
        machine.state.add_time(step.name, step.usual_s)
        machine.state.record(step.name, step.needs, {})
    planned = machine.timing.distillation_minutes()
    machine.state.add_time(DISTILLATION, 100.0)
    assert machine.make_timing().distillation_minutes() == planned
    machine.state.add_time("text", 60.0)
    machine.state.record(CALIBRATION, ("stage1",), {})  # calibrated anew
    assert machine.timing.distillation_minutes() == pytest.approx(planned - 1, abs=0.011)


def test_with_steps_the_end_is_known_once_calibration_is_measured(tmp_path: Path) -> None:
    machine = Machine(tmp_path, 1.5, None, steps=120)
    took_s = machine.run()
    known = [(at_s, glance.left_s) for at_s, glance in machine.said if glance.left_s is not None]
    assert len(known) > 100
    for at_s, left_s in known:
        assert left_s == pytest.approx(took_s - (at_s - machine.began_s), rel=0.2, abs=5.0)


def test_calibration_gets_what_is_left_and_keeps_it(tmp_path: Path) -> None:
    machine = Machine(tmp_path, 1.0, 10.0)
    for name, seconds in (
        ("text", 1),
        ("model", 5),
        ("eval_teacher", 58),
        ("stage1", 22),
        ("eval_rounded", 24),
    ):
        machine.state.add_time(name, seconds)
        machine.state.record(name, (), {})
    after_s = 2 * (31 + 9 + 15 + 9 + 8 + 5) + REPORT_S
    planned = machine.timing.calibration_minutes()
    assert planned == pytest.approx((0.95 * 600 - 110 - after_s - 2 * 8) / 60, abs=0.01)
    machine.state.add_time(CALIBRATION, 100.0)  # stopped, and started again
    machine.state.add_time("eval_teacher", 50.0)
    assert machine.make_timing().calibration_minutes() == planned
    assert machine.timing.glance(CALIBRATION, 20.0).left_s == pytest.approx(
        planned * 60 + 16 - 120 + 18 + after_s, rel=0.25
    )
    machine.state.record("stage1", (), {})  # converted anew: another plan
    assert machine.timing.calibration_minutes() != planned


def test_what_a_killed_process_left_behind_is_no_progress(tmp_path: Path) -> None:
    machine = Machine(tmp_path, 1.0, None, steps=120)
    machine.progress = Progress("steps", 7, 120, "1.50 nats apart", 90.0, machine.now_s - 10)
    assert machine.timing.glance(CALIBRATION, 5.0).note == ""
    assert machine.timing.glance(CALIBRATION, 15.0).note == "7 of 120 steps, 1.50 nats apart"


@pytest.mark.parametrize(
    ("steps", "minutes", "expected"),
    [
        (None, 7.61, ["minutes=7.61", "refine_steps=128", "distil_steps=2000"]),
        (50, None, ["minutes=null", "refine_steps=64", "distil_steps=50"]),
    ],
)
def test_what_the_trainer_is_told(
    steps: int | None, minutes: float | None, expected: list[str], tmp_path: Path
) -> None:
    context = Context(parse_options("packaged", steps, tmp_path, []))
    assert _time_settings(context, minutes) == [f"training.ternarize.{setting}" for setting in expected]


@pytest.mark.parametrize(
    ("steps", "minutes", "length"),
    [(None, 4.5, ["max_steps=null", "minutes=4.5"]), (50, None, ["max_steps=50", "minutes=null"])],
)
def test_what_stage_3_is_told(
    steps: int | None,
    minutes: float | None,
    length: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[tuple[Any, ...]] = []

    def run_stage(*arguments: Any) -> dict[str, Any]:
        told.append(arguments)
        return {"first_loss": 2.0, "last_loss": 1.0}

    monkeypatch.setattr(training, "_run_stage", run_stage)
    monkeypatch.setattr(training, "_summary", lambda *_: {"precision": "bf16"})
    options = parse_options("packaged", steps, tmp_path, [], distil=True)
    context = Context(options, distillation_minutes=lambda: minutes)
    assert training.distil(context, StepLine())["minutes"] == minutes
    ((number, name, _, settings),) = told
    assert (number, name) == ("3", DISTILLATION)
    own = [f"training.{setting}" for setting in length]
    assert settings == ["training.precision=bf16", *DISTILLATION_SETTINGS, *own]
    time_settings = _time_settings(context, minutes)
    assert (f"training.ternarize.distil_share={SCALES_SHARE}" in time_settings) == (minutes is not None)


@pytest.mark.parametrize("length", [["max_steps=null", "minutes=4.5"], ["max_steps=50", "minutes=null"]])
def test_the_trainer_takes_what_stage_3_is_told(length: list[str]) -> None:
    """By its own command, which only checks the configuration."""
    settings = [
        "training.precision=int8",
        *DISTILLATION_SETTINGS,
        *[f"training.{setting}" for setting in length],
    ]
    command = [sys.executable, "-m", "wrinklefree.train", "-s", "3", "--cfg", *settings]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "precision: int8" in done.stdout


# ---- options


def test_ten_minutes_are_the_default(tmp_path: Path) -> None:
    identity = parse_options("packaged", None, tmp_path, []).identity()
    assert (identity["minutes"], identity["steps"]) == (10.0, None)


def test_steps_and_minutes_exclude_each_other(tmp_path: Path) -> None:
    output = ["--output", str(tmp_path / "out")]
    done = CliRunner().invoke(app, ["--steps", "100", "--minutes", "5", *output])
    assert done.exit_code == 2
    assert "--steps 100 and --minutes 5: give one of them" in done.output
    assert len(done.output.strip().splitlines()) == 1
    short = CliRunner().invoke(app, ["--minutes", "2", *output])
    assert short.exit_code == 2
    assert "--minutes" in short.output
    assert "greater than or equal to 4" in short.output
    for minutes in (float("nan"), float("inf")):
        with pytest.raises(QuickstartRequestError, match=f"--minutes {minutes}: give a number"):
            parse_options("packaged", None, tmp_path, [], minutes)
    assert not (tmp_path / "out").exists()


def test_stage_3_needs_its_time(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["--distil", "--minutes", "4", "--output", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "--distil with --minutes 4: at least 6" in done.output
    assert not (tmp_path / "out").exists()


# ---- display


def test_a_line_says_where_it_is() -> None:
    found = Glance(250.4, 340.0, 0.4, "12 of 30 blocks")
    assert (
        sentence("Calibrate the weights", found)
        == "4:10 of about 9:50, calibrate the weights: 12 of 30 blocks"
    )
    assert sentence("Export", Glance(61, None, None, "")) == "1:01, export"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_long_step_is_not_silent(is_terminal: bool) -> None:
    """A live line on a terminal; a line every while without one, and none after the step."""
    file = io.StringIO()
    console = Console(file=file, width=160, force_terminal=is_terminal, color_system=None)
    display = Display(3, console, every_s=0.01)

    def look(running_s: float) -> Glance:
        return Glance(60 + running_s, 340.0, 0.25, "12 of 30 [blocks]")

    with display.step("Calibrate", look):
        time.sleep(0.3)
    text = file.getvalue()
    time.sleep(0.05)
    assert file.getvalue() == text
    assert "12 of 30 [blocks]" in text
    assert ("5:40 left" if is_terminal else "    1:00 of about 6:40, calibrate: 12 of 30 [blocks]\n") in text
