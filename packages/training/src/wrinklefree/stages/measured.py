"""What steps, and the pieces of stage 1.5, took so far, and what they will therefore take."""

from __future__ import annotations

from statistics import fmean

from wrinklefree.stages.budget import Costs, likely_distil_step_s

_RECENT_BLOCKS, _RECENT_STEPS = 3, 10
"""So few that a machine that slows down is noticed, so many that one hiccup among them can be left out."""
_SURE_STEPS = 3
"""So many slow ones are no hiccups."""


class StepTimes:
    """Of steps of one kind in this run; the very first is slower and does not count beside others.

    What a step takes now is the mean of the last ten, without the longest, or the shortest of the last three
    where that is longer: a machine that slows down sharply is believed after three steps.
    """

    def __init__(self) -> None:
        self._seconds: list[float] = []

    def add(self, took_s: float) -> None:
        self._seconds.append(took_s)

    def __len__(self) -> int:
        return len(self._seconds)

    @property
    def step_s(self) -> float:
        """What a step takes now; needs one."""
        return _now(self._seconds[1:] or self._seconds)

    @property
    def slowdown(self) -> float:
        """How many times slower they have become."""
        counted = self._seconds[1:]
        return max(1.0, _now(counted) / _usual(counted[:_RECENT_STEPS])) if counted else 1.0


class Measured:
    """Of stage 1.5.

    Args: tokens_ratio are the tokens of a distillation step over those of a refinement step.
    """

    def __init__(self, num_blocks: int, tokens_ratio: float) -> None:
        self._num_blocks, self._tokens_ratio = num_blocks, tokens_ratio
        self._rests_s: list[float] = []
        self._refine_steps_s: list[float] = []
        self.distil_steps = StepTimes()

    def block(self, took_s: float, refined_s: float, num_steps: int) -> None:
        """A block, of which `refined_s` for its refinement."""
        self._rests_s.append(took_s - refined_s)
        self._refine_steps_s.append(refined_s / max(num_steps, 1))

    @property
    def has_blocks(self) -> bool:
        return bool(self._rests_s)

    def costs(self) -> Costs:
        """Those of now; needs a block."""
        recent = slice(-_RECENT_BLOCKS, None)
        refine_step_s = fmean(self._refine_steps_s[recent])
        return Costs(fmean(self._rests_s[recent]), refine_step_s, self.distil_step_s())

    def distil_step_s(self) -> float:
        """Measured, else by what refinement steps take; 0 where nothing is known."""
        if len(self.distil_steps):
            return self.distil_steps.step_s
        if not self._refine_steps_s:
            return 0.0
        refine_step_s = fmean(self._refine_steps_s[-_RECENT_BLOCKS:])
        return likely_distil_step_s(refine_step_s, self._num_blocks, self._tokens_ratio)

    def slowdown(self) -> float:
        """How many times slower the machine has become."""
        rests_s, num_recent = self._rests_s, _RECENT_BLOCKS
        growth = _usual(rests_s[-num_recent:]) / _usual(rests_s[:num_recent]) if rests_s else 1.0
        return max(1.0, growth) * self.distil_steps.slowdown


def _now(seconds: list[float]) -> float:
    """What the next step will take, by those before it."""
    return max(_usual(seconds[-_RECENT_STEPS:]), min(seconds[-_SURE_STEPS:]))


def _usual(seconds: list[float]) -> float:
    """Their mean, of several without the longest: data that came late, another program that woke up."""
    return fmean(sorted(seconds)[: max(2, len(seconds) - 1)])
