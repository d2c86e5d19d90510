"""Which share of a run its steps have behind them, also where its length is planned anew midway.

What is given as shares of the run and is no learning rate (the phases of the curriculum, the end of weight
decay) goes by it. A new plan takes nothing back: the share that was done stays done, and the rest of the run
is spread over the steps that are left. So no phase comes twice.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Course:
    """Attributes:
    num_steps: of the run.
    done: steps that were done when it was planned last, and the share of the run that they were.
    """

    num_steps: int
    done: tuple[int, float] = (0, 0.0)

    def share(self, num_done: int) -> float:
        """Of the run, after so many steps."""
        steps, share = self.done
        return share + (1 - share) * (num_done - steps) / (self.num_steps - steps)

    def steps(self, share: float) -> float:
        """After how many steps a share of the run is done; before the last plan as if by its pace."""
        steps, done = self.done
        return steps + (share - done) / (1 - done) * (self.num_steps - steps)

    def planned_anew(self, num_steps: int, num_done: int) -> Course:
        """The course of a run of `num_steps`, of which `num_done` were done by this one."""
        return Course(num_steps, (num_done, self.share(num_done)))
