"""Weights by how much a step on a source helps the probes.

With scores u_t(k) of the sources (scoring.py), from their configured weights w0:

    e_t(k) = b e_{t-1}(k) + (1 - b) u_t(k),  e_1 = u_1
    w(k)   = projection of  w0(k) exp(eta e_t(k))  on the bounded simplex

b is `ema_decay`, eta `step_size`: an exponentiated gradient step from w0, not from the weights before, so
that weights follow scores down as well as up and the same scores always give the same weights. With eta 0
they stay what is configured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from wrinklefree.mixture.policy import Evidence, Needs, Weights
from wrinklefree.mixture.simplex import Projected


class Influence:
    needs: ClassVar[Needs] = Needs.scores

    def __init__(self, configured: Weights, step_size: float, ema_decay: float, projected: Projected) -> None:
        """Args: configured weights sum to 1, each above 0."""
        self._configured, self._step_size, self._decay = configured, step_size, ema_decay
        self._projected = projected
        self._scores: Weights = {}

    def update(self, weights: Weights, evidence: Evidence) -> Weights:
        before = self._scores or evidence.scores
        self._scores = {
            name: self._decay * before[name] + (1 - self._decay) * evidence.scores[name]
            for name in self._configured
        }
        logs = [
            math.log(weight) + self._step_size * self._scores[name]
            for name, weight in self._configured.items()
        ]
        return dict(zip(self._configured, self._projected(logs), strict=True))

    def figures(self) -> dict[str, float]:
        return {f"influence/{name}": score for name, score in self._scores.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"scores": self._scores}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._scores = dict(state["scores"])
