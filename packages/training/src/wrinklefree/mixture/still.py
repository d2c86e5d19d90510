"""Weights that stay as they are at the beginning: `fixed` and `uniform`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from wrinklefree.mixture.policy import Evidence, Needs, Weights


class Still:
    needs: ClassVar[Needs] = Needs.nothing

    def update(self, weights: Weights, evidence: Evidence) -> Weights:
        return weights

    def figures(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """There is none."""
