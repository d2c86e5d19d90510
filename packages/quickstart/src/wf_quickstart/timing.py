"""The time of a quickstart: what calibration and distillation get of it, and what is left while it runs.

Every step has a usual time (`Step.usual_s`, of SmolLM2-135M on two cores). What the steps before calibration
took over their usual times tells how much slower or faster this machine and model are, hence what the steps
after it will take. Calibration gets the rest of `--minutes`, less a margin, and plans itself into it
(stage 1.5). Where stage 3 follows, the distillation that ends stage 1.5 stops after a share of what the
blocks leave (`training.SCALES_SHARE`), and stage 3 plans itself into the rest. Only working time counts: of
all runs of a quickstart that was stopped, without the pauses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from wf_formats.run_files import Progress
from wf_quickstart.context import CALIBRATION, DISTILLATION
from wf_quickstart.options import Options
from wf_quickstart.state import State

REPORT_S = 2.0
"""Writing the report, the last of all."""
_STARTING_S = 8.0
"""Until the trainer's process begins to count."""
_MARGIN = 0.05
"""Share of the whole that nothing is planned into."""
_LEAST_PLANNED_S = 30.0
_BEFORE = {CALIBRATION: "stage1", DISTILLATION: CALIBRATION}
"""Steps that are planned into the time, and what they start from."""
_MEASURED_FROM_S = 10.0
"""Steps that usually take less say nothing about the machine."""


@dataclass(frozen=True)
class Glance:
    """A look at the running step.

    Attributes:
        spent_s, left_s: of the whole quickstart; left_s is None while it cannot be known.
        share: of the step that is done; None where nothing tells.
    """

    spent_s: float
    left_s: float | None
    share: float | None
    note: str


class Timing:
    """Args:
    usual_s: of every step, in order.
    progress: what the step that is planned into the time writes of itself.
    now_s: time.time().
    """

    def __init__(
        self,
        options: Options,
        state: State,
        usual_s: Mapping[str, float],
        progress: Callable[[], Progress | None],
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._options, self._state, self._usual_s = options, state, usual_s
        self._progress, self._now_s = progress, now_s

    def calibration_minutes(self) -> float | None:
        """What stage 1.5 may take; the same when it goes on. None: its steps are fixed."""
        return self._minutes(CALIBRATION)

    def distillation_minutes(self) -> float | None:
        """The same of stage 3."""
        return self._minutes(DISTILLATION)

    def _minutes(self, name: str) -> float | None:
        if self._options.minutes is None:
            return None
        return self._state.once(name, (_BEFORE[name],), lambda: round(self._planned_s(name) / 60, 2))

    def glance(self, name: str, running_s: float) -> Glance:
        """Args: name and seconds since its start of the step that runs."""
        progress = self._fresh_progress(running_s) if name in _BEFORE else None
        step_left_s = self._step_left_s(name, running_s, progress)
        share = None if step_left_s is None else _share(running_s, step_left_s)
        spent_s = self._spent_s() + running_s
        return Glance(spent_s, self._left_s(name, spent_s, step_left_s), share, _note(progress))

    def _left_s(self, name: str, spent_s: float, step_left_s: float | None) -> float | None:
        later = list(self._usual_s)[list(self._usual_s).index(name) + 1 :]
        if not _BEFORE.keys() & set(later):
            return None if step_left_s is None else step_left_s + self._expected_s(later)
        if self._options.minutes is None:
            return None
        return max(0.0, self._wanted_s() - spent_s)

    def _step_left_s(self, name: str, running_s: float, progress: Progress | None) -> float | None:
        if name not in _BEFORE:
            return max(0.0, self._expected_s([name]) - running_s)
        if progress is not None and progress.left_s is not None:
            return max(0.0, progress.left_s - (self._now_s() - progress.written_s))
        minutes = self._minutes(name)
        if minutes is None:
            return None
        spent_s = self._state.spent_s(name) + running_s
        return max(0.0, minutes * 60 + self._slowness() * _STARTING_S - spent_s)

    def _fresh_progress(self, running_s: float) -> Progress | None:
        """None where a process that was killed left it behind."""
        progress = self._progress()
        is_fresh = progress is not None and progress.written_s >= self._now_s() - running_s
        return progress if is_fresh else None

    def _wanted_s(self) -> float:
        """What the whole is planned to take."""
        assert self._options.minutes is not None
        return self._options.minutes * 60 * (1 - _MARGIN)

    def _planned_s(self, name: str) -> float:
        """All that the other steps leave; of calibration what stage 3 will have, too."""
        names = list(self._usual_s)
        after = names[names.index(name) + 1 :]
        others_s = self._spent_s() - self._state.spent_s(name) + self._expected_s(after)
        num_starts = 1 + len(_BEFORE.keys() & set(after))
        starts_s = self._slowness() * _STARTING_S * num_starts
        return max(_LEAST_PLANNED_S, self._wanted_s() - others_s - starts_s)

    def _expected_s(self, names: list[str]) -> float:
        """The report included where the last step is."""
        report_s = REPORT_S if list(self._usual_s)[-1:] == names[-1:] else 0.0
        return report_s + self._slowness() * sum(self._usual_s[name] for name in names)

    def _slowness(self) -> float:
        """How many times the usual time the steps so far took; 1 before any is measured."""
        measured = [name for name in self._measuring() if self._state.has_done(name)]
        if not measured:
            return 1.0
        took_s = sum(self._state.spent_s(name) for name in measured)
        return took_s / sum(self._usual_s[name] for name in measured)

    def _measuring(self) -> list[str]:
        return [n for n, usual_s in self._usual_s.items() if usual_s >= _MEASURED_FROM_S and n not in _BEFORE]

    def _spent_s(self) -> float:
        return sum(self._state.spent_s(name) for name in self._usual_s)


def _share(running_s: float, left_s: float) -> float:
    """Never all of it while the step runs."""
    return min(0.99, running_s / (running_s + left_s)) if running_s + left_s > 0 else 0.0


def _note(progress: Progress | None) -> str:
    if progress is None:
        return ""
    detail = f", {progress.detail}" if progress.detail else ""
    return f"{progress.done} of {progress.total} {progress.what}{detail}"
