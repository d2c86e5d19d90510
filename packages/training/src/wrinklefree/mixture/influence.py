"""Weights whose mean gradient points where the probes' does.

A training step on a mixture w of the sources goes along m(w) = sum_k w(k) g_k, their mean gradients. Its
score is the cosine with the probes' gradient p, which has length 1 (times the probes' weights):

    f(w)    = <m(w), p> / |m(w)|
    u_w(k)  = df / dw(k) = <g_k, p> / |m| - f(w) <g_k, m> / |m|^2
    w       = projection on the bounded simplex of  w0(k) exp(eta u_w(k))

which is where eta f(w) is largest, less the relative entropy to the configured w0 (with projection=kl). So
the configured weights stay without evidence, or with eta 0 (`step_size`). It is solved by averaging: w moves
to the right side by 2 / (i + 3) of the way in iteration i (conditional gradient), in 15 ms or less for five
sources.

The cosines of the sources alone do not make a mixture: a probe of two kinds of text has a low one with
either, and the source that is nearer would get everything. Nor do gradients of a few sequences: their inner
products are averaged over the turns before anything is divided by a length. The mean of turn t gives turn s
the weight b^(t-s), b = `ema_decay`, of their sum, so that the first turn has no more than the second.

What is measured of it: docs/results.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wrinklefree.mixture.policy import Evidence, Needs, Weights
from wrinklefree.mixture.simplex import Projected

_NUM_ITERATIONS, _NEAR = 200, 1e-5
"""At most, and when it ends: weights are then within 1e-3 of the best ones for step sizes up to 100."""
Array = NDArray[np.float64]


class Influence:
    needs: ClassVar[Needs] = Needs.gradients

    def __init__(self, configured: Weights, step_size: float, ema_decay: float, projected: Projected) -> None:
        """Args: configured weights sum to 1, each above 0."""
        self._names, self._configured = list(configured), np.array(list(configured.values()))
        self._step_size, self._decay, self._projected = step_size, ema_decay, projected
        self._turns = 0
        self._between: Array = np.zeros((len(configured), len(configured)))
        self._with_probes: Array = np.zeros(len(configured))

    def update(self, weights: Weights, evidence: Evidence) -> Weights:
        assert evidence.gradients is not None
        self._turns += 1
        new = (1 - self._decay) / (1 - self._decay**self._turns)
        self._between += new * (np.array(evidence.gradients.between) - self._between)
        self._with_probes += new * (np.array(evidence.gradients.with_probes) - self._with_probes)
        return dict(zip(self._names, self._solved(), strict=True))

    def _solved(self) -> list[float]:
        mixture = self._tilted(np.zeros(len(self._names)))
        for number in range(_NUM_ITERATIONS):
            missing = self._tilted(self._gains(mixture)) - mixture
            if np.abs(missing).max() < _NEAR:
                break
            mixture += 2 / (number + 3) * missing
        return self._projected(np.log(mixture.clip(min=np.finfo(float).tiny)).tolist())  # exact at the bounds

    def _tilted(self, gains: Array) -> Array:
        return np.array(self._projected((np.log(self._configured) + self._step_size * gains).tolist()))

    def _gains(self, mixture: Array) -> Array:
        """u: what the score gains with more of each source."""
        with_mixture = self._between @ mixture
        length = np.sqrt(mixture @ with_mixture)
        if not length > 0:
            return np.zeros(len(mixture))
        score = self._with_probes @ mixture / length
        found: Array = (self._with_probes - score * with_mixture / length) / length
        return found

    def figures(self) -> dict[str, float]:
        """The cosine of each source alone with the probes."""
        if not self._turns:
            return {}
        lengths = np.sqrt(self._between.diagonal())
        cosines = np.divide(self._with_probes, lengths, out=np.zeros(len(lengths)), where=lengths > 0)
        return {f"influence/{name}": float(value) for name, value in zip(self._names, cosines, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        return {
            "turns": self._turns,
            "between": self._between.tolist(),
            "with_probes": self._with_probes.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._turns = state["turns"]
        self._between, self._with_probes = np.array(state["between"]), np.array(state["with_probes"])
