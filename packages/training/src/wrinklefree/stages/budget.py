"""How many steps a stage takes, so that it ends in time: arithmetic alone, without PyTorch or a clock.

In stage 1.5, the order in which time is given away:
1. what has to be: solving every block, and the least steps of both kinds, even where they do not fit;
2. refinement up to its usual steps, but only so far that the distillation keeps its own usual ones;
3. the distillation, up to its most steps;
4. further refinement, up to its most.
Plans are made again and again with what was measured last (pace.py), so a machine that slows down midway
still ends in time.
"""

from __future__ import annotations

from dataclasses import dataclass

REFINE_LEAST, REFINE_USUAL = 8, 64
DISTIL_LEAST, DISTIL_USUAL = 10, 60
_DISTIL_OVER_REFINE = 1.2
"""Time of a distillation step over that of a refinement step on the same tokens in every block: the
teacher and the output head come on top. Of SmolLM2-135M; holds until a distillation step is measured."""


@dataclass(frozen=True)
class Bounds:
    """Steps of one kind: never fewer than `least` nor more than `most`."""

    least: int
    usual: int
    most: int

    def clamp(self, steps: int) -> int:
        return max(self.least, min(self.most, steps))


@dataclass(frozen=True)
class Costs:
    """Seconds: of a block without its refinement, of one refinement step, of one distillation step."""

    block_s: float
    refine_step_s: float
    distil_step_s: float


@dataclass(frozen=True)
class Plan:
    """refine_steps: of each block to come; seconds: of all of it."""

    refine_steps: int
    distil_steps: int
    seconds: float


def refine_bounds(most: int) -> Bounds:
    return Bounds(min(REFINE_LEAST, most), min(REFINE_USUAL, most), most)


def distil_bounds(most: int) -> Bounds:
    return Bounds(min(DISTIL_LEAST, most), min(DISTIL_USUAL, most), most)


def likely_distil_step_s(refine_step_s: float, num_blocks: int, tokens_ratio: float) -> float:
    """Args: tokens_ratio are the tokens of a distillation step over those of a refinement step."""
    return _DISTIL_OVER_REFINE * num_blocks * refine_step_s * tokens_ratio


def plan_blocks(left_s: float, num_blocks: int, costs: Costs, refine: Bounds, distil: Bounds) -> Plan:
    """The plan for `num_blocks` blocks to come and the distillation after them in `left_s` seconds."""
    spare_s = left_s - num_blocks * costs.block_s
    round_s = num_blocks * costs.refine_step_s  # one more refinement step in every block

    def refine_beside(distil_steps: int) -> int:
        return _fitting(spare_s - distil_steps * costs.distil_step_s, round_s, refine.most)

    def distil_beside(refine_steps: int) -> int:
        return _fitting(spare_s - refine_steps * round_s, costs.distil_step_s, distil.most)

    steps = refine.usual
    if distil_beside(steps) < distil.usual:
        steps = min(steps, refine.clamp(refine_beside(distil.usual)))
    elif distil_beside(steps) >= distil.most:
        steps = max(steps, refine.clamp(refine_beside(distil.most)))
    return planned(num_blocks, costs, steps, distil.clamp(distil_beside(steps)))


def planned(num_blocks: int, costs: Costs, refine_steps: int, distil_steps: int) -> Plan:
    """A plan of these steps with the time that it takes."""
    blocks_s = num_blocks * (costs.block_s + refine_steps * costs.refine_step_s)
    return Plan(refine_steps, distil_steps, blocks_s + distil_steps * costs.distil_step_s)


def plan_steps(left_s: float, num_done: int, step_s: float, bounds: Bounds) -> int:
    """Steps of the whole, those done included, of which the rest takes `left_s` seconds."""
    return max(num_done, bounds.clamp(num_done + _fitting(left_s, step_s, bounds.most)))


def _fitting(left_s: float, step_s: float, most: int) -> int:
    """How many steps fit, `most` where they take no time."""
    return most if step_s <= 0 else max(0, int(left_s / step_s))
