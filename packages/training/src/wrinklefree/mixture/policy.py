"""What decides the weights of the sources: weights and evidence in, weights out. Imports no PyTorch.

A further policy is a file with a class like these, a name in `config.mixture.Policy` and a line of
`registry.POLICIES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Protocol

Weights = dict[str, float]
"""By name of the source; they sum to 1."""


class Needs(StrEnum):
    """What a policy decides by."""

    nothing = "nothing"
    losses = "losses"
    scores = "scores"


@dataclass(frozen=True)
class Evidence:
    """Of the time since the last turn, the same on all ranks.

    losses: mean loss of a token of each source that was trained on, in the objective's unit.
    scores: how much a step on each source helps the probes (scoring.py), from -1 to 1 times the sum of the
        probes' weights.
    """

    losses: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)


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
