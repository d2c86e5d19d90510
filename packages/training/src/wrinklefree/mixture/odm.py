"""Online data mixing: EXP3 with the loss as reward (Albalak et al. 2023, arXiv 2312.02406, algorithm 1).

With K sources, weights pi_t and mean losses L_t of turn t = 1, 2, ...

    R_t(i) = a R_{t-1}(i) + (1 - a) L_t(i) / pi_{t-1}(i)     for sources that were seen, R_0 = 0
    E_t    = min(1/K, sqrt(ln K / (K t))),  E_0 = 1/K
    pi_t(i) = (1 - K E_t) exp(E_{t-1} R_t(i)) / sum_j exp(E_{t-1} R_t(j)) + E_t

a is `smoothing`. L / pi makes the estimate of a source that is seen seldom as large as if it were always
seen; E_t explores, all of it for the first K ln K turns (so the weights are uniform until then) and less and
less after. A turn of the paper is a step; here it is `every_steps` of them, by their mean loss. What comes
out is projected on the bounded simplex, which the paper has not.

It knows of no aim: a source that stays hard, such as noise, has the highest loss and is drawn most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from wrinklefree.mixture.policy import Evidence, Needs, Weights
from wrinklefree.mixture.simplex import Projected, softmax


class Odm:
    needs: ClassVar[Needs] = Needs.losses

    def __init__(self, names: Sequence[str], smoothing: float, projected: Projected) -> None:
        self._smoothing, self._projected = smoothing, projected
        self._rewards = dict.fromkeys(names, 0.0)
        self._turns = 0

    def update(self, weights: Weights, evidence: Evidence) -> Weights:
        for name, loss in evidence.losses.items():
            kept = self._smoothing * self._rewards[name]
            self._rewards[name] = kept + (1 - self._smoothing) * loss / weights[name]
        before = self._exploration(self._turns)
        self._turns += 1
        explored = self._exploration(self._turns)
        chosen = softmax([before * reward for reward in self._rewards.values()])
        mixed = [(1 - len(chosen) * explored) * share + explored for share in chosen]
        return dict(zip(self._rewards, self._projected([math.log(share) for share in mixed]), strict=True))

    def _exploration(self, turn: int) -> float:
        count = len(self._rewards)
        return min(1 / count, math.sqrt(math.log(count) / (count * turn))) if turn else 1 / count

    def figures(self) -> dict[str, float]:
        return {f"odm_reward/{name}": reward for name, reward in self._rewards.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"rewards": self._rewards, "turns": self._turns}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._rewards = {name: state["rewards"][name] for name in self._rewards}
        self._turns = state["turns"]
