"""How the AWQ stage keeps time: on how many sequences each block is searched.

With `training.awq.minutes` that is decided before each block, by what the last ones took: all of a block's
time is put down to its sequences, which is too much while they are few, so that the number grows from block
to block to what fits. What was spent is a part of the run, and counts when it goes on. progress.json says it
all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import fmean
from typing import TYPE_CHECKING

from wrinklefree.config.awq import AwqConfig
from wrinklefree.stages.watch import Watch

if TYPE_CHECKING:
    from wrinklefree.run_folder import RunFolder

_SPENT = "spent"
LEAST_SEQUENCES = 1
_RECENT = 3


class AwqPace:
    """Args:
    most: sequences that a block is searched on.
    clock: seconds, rising.
    """

    def __init__(
        self,
        options: AwqConfig,
        run: RunFolder,
        num_blocks: int,
        most: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._minutes, self._parts, self._most = options.minutes, run.parts, most
        self._watch = Watch(run.path, "training.awq.minutes", options.minutes, clock)
        if _SPENT in run.parts:
            self._watch.count(run.parts.load(_SPENT)[1]["seconds"])
        self._num_blocks, self._num_passed = num_blocks, 0
        self._took_s: list[tuple[float, int]] = []
        self._searched: int | None = None
        self._end_s = 0.0

    @property
    def spent_s(self) -> float:
        return self._watch.spent_s

    def prepared(self, before_s: float, end_s: float) -> None:
        """Models and text are there. Args: before_s was spent before, end_s will be at the end."""
        self._watch.count(before_s)
        self._end_s = end_s
        self._watch.lap()
        self._write()

    def search_sequences(self) -> int:
        """Of the block that is worked on now."""
        self._searched = self._planned()
        return self._searched

    def passed(self) -> None:
        """The streams have passed the block."""
        took_s = self._watch.lap()
        if self._searched is not None:  # else an earlier run had worked on it
            self._took_s.append((took_s, self._searched))
            self._searched = None
        self._num_passed += 1
        self._parts.save(_SPENT, {}, {"seconds": self.spent_s})
        self._write()

    def finished(self) -> None:
        self._watch.finished()

    def _planned(self) -> int:
        if self._minutes is None:
            return self._most
        if not self._took_s:
            return LEAST_SEQUENCES
        num_left = self._num_blocks - self._num_passed
        sequence_s = fmean(took_s / searched for took_s, searched in self._took_s[-_RECENT:])
        self._watch.is_late(num_left * sequence_s * LEAST_SEQUENCES, self._end_s)
        fitting = int(self._watch.left_s(self._end_s) / num_left / max(sequence_s, 1e-9))
        return max(LEAST_SEQUENCES, min(self._most, fitting))

    def _left_s(self) -> float | None:
        """Of the whole stage; None where nothing was measured."""
        if not self._took_s:
            return None
        num_left = self._num_blocks - self._num_passed
        block_s = fmean(took_s for took_s, _ in self._took_s[-_RECENT:])
        return num_left * block_s + self._end_s

    def _write(self) -> None:
        self._watch.write("blocks", self._num_passed, self._num_blocks, self._left_s)
