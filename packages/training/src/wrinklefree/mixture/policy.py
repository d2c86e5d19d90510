"""What decides the weights of the sources: weights and evidence in, weights out. Imports no PyTorch.

A further policy is a file with a class like these, a name in `config.mixture.Policy` and a line of
`registry.POLICIES`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Protocol

Weights = dict[str, float]
"""By name of the source; they sum to 1."""


class Needs(StrEnum):
    """What a policy decides by."""

    nothing = "nothing"
    losses = "losses"
    gradients = "gradients"


@dataclass(frozen=True)
class GradientProducts:
    """Inner products of the sources' mean gradients g_k with each other and with the probes' (scoring.py).

    The unit of the g_k is the root of the mean of their squared lengths, so that turns can be averaged.

    between: [sources][sources], <g_k, g_l>, in the order of the configured weights; positive semidefinite.
    with_probes: [sources], <g_k, p>; p sums the probes' gradients, each of length 1 times its weight.
    """

    between: Sequence[Sequence[float]]
    with_probes: Sequence[float]


@dataclass(frozen=True)
class Evidence:
    """Of the time since the last turn, the same on all ranks.

    losses: mean loss of a token of each source that was trained on, in the objective's unit.
    gradients: None where they were not taken.
    """

    losses: Mapping[str, float] = field(default_factory=dict)
    gradients: GradientProducts | None = None


class MixturePolicy(Protocol):
    needs: ClassVar[Needs]
    """What of the evidence is filled in; with `nothing` there are no turns."""

    def update(self, weights: Weights, evidence: Evidence) -> Weights:
        """The weights of the next steps, on the bounded simplex.

        Args: weights in force since the last turn.
        """

    def figures(self) -> dict[str, float]:
        """What the decision was made by, as `metric/<source>`."""

    def state_dict(self) -> dict[str, Any]:
        """JSON values; a policy that is given them goes on as this one."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...
