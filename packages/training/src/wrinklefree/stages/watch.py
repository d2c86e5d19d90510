"""The clock of a stage over all of its runs, its time if it has one, and what it says of itself meanwhile."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from wf_formats.run_files import Progress, remove_progress, write_progress

LOG = logging.getLogger("wrinklefree")
FIRST_STEPS = 3
"""After so many the time of a step is known; the very first is slower and does not count."""
_WRITE_EVERY_S = 1.0
"""Seconds between two states of progress.json."""


class Watch:
    """Args:
    folder: of the run.
    key: that gives `minutes`, the time of all runs of the stage together; None: as long as it takes.
    clock: seconds, rising.
    """

    def __init__(
        self, folder: Path, key: str, minutes: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.key, self.minutes = key, minutes
        self._folder, self._clock = folder, clock
        self._began_s = self._last_s = self._written_s = clock()
        self._has_warned = False
        remove_progress(folder)

    @property
    def spent_s(self) -> float:
        return self._clock() - self._began_s

    def count(self, spent_s: float) -> None:
        """Earlier runs took so long."""
        self._began_s -= spent_s

    def lap(self) -> float:
        """Seconds since the last one."""
        last_s, self._last_s = self._last_s, self._clock()
        return self._last_s - last_s

    def left_s(self, end_s: float) -> float:
        """Until the end's work, which takes `end_s`, has to begin."""
        assert self.minutes is not None
        return self.minutes * 60 - end_s - self.spent_s

    def is_late(self, needed_s: float, end_s: float) -> bool:
        """Whether the work that has to be done, and the end's, do not fit; then it is said, once."""
        is_late = needed_s > 0 and needed_s - self.left_s(end_s) > 1
        if is_late and not self._has_warned:
            self._warn(needed_s, end_s)
        return is_late

    def _warn(self, needed_s: float, end_s: float) -> None:
        self._has_warned = True
        LOG.warning(
            "the least steps do not fit into %s=%g: it will take about %s",
            self.key,
            self.minutes,
            clock_time(self.spent_s + needed_s + end_s),
        )

    def write(
        self, what: str, done: int, total: int, left_s: Callable[[], float | None], detail: str = ""
    ) -> None:
        """progress.json, unless it has just been written."""
        if self._clock() - self._written_s < _WRITE_EVERY_S and done < total:
            return
        self._written_s = self._clock()
        write_progress(self._folder, Progress(what, done, total, detail, left_s()))

    def finished(self) -> None:
        remove_progress(self._folder)


def clock_time(seconds: float) -> str:
    """Such as 3:05, or 1:03:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
