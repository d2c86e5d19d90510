"""Lets a policy weigh the sources while the run goes on (wrinklefree/mixture)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L

from wrinklefree.callbacks.base import StepCallback
from wrinklefree.callbacks.random_state import kept_random_state
from wrinklefree.datamodule import data_of
from wrinklefree.mixture.policy import Evidence, MixturePolicy, Needs, Weights
from wrinklefree.mixture.scoring import SourceScorer
from wrinklefree.mixture.turns import Turns
from wrinklefree.module import WrinkleFreeLightningModule
from wrinklefree.source_losses import SourceSums

LOG = logging.getLogger("wrinklefree")
_NO_CHANGE = 1e-9
"""Of a weight: rounding, which the data must not see (it goes on otherwise after each change)."""


class Mixture(StepCallback):
    """Lets the policy take its turns, none after the last step; weights as `mixture/<source>`, and what the
    policy tells, in every row.

    Weights are computed from what all ranks have seen and are those of the first on all of them. They hold
    from a batch that the step fixes, so a resumed run goes on to the bit, with data workers too.

    Args:
        weights: that the run begins with.
        scorer: of a policy that needs gradients; made of the model when the training starts.
    """

    def __init__(
        self,
        policy: MixturePolicy,
        weights: Weights,
        turns: Turns,
        scorer: Callable[[Any], SourceScorer] | None = None,
    ) -> None:
        self._policy, self._weights, self._turns = policy, dict(weights), turns
        self._sums = SourceSums(list(weights))
        self._make_scorer = scorer
        self._scorer: SourceScorer | None = None
        self._restored: Mapping[str, Any] | None = None
        self._has_told = False

    @property
    def weights(self) -> Weights:
        """Those decided on last."""
        return dict(self._weights)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self._policy.needs is not Needs.nothing and data_of(trainer).begins_anew:
            data_of(trainer).set_weights(self._weights)  # data that begins anew has the configured ones
        if self._make_scorer is None:
            return
        assert isinstance(pl_module, WrinkleFreeLightningModule)
        self._scorer = self._make_scorer(pl_module.model)
        if self._restored is not None:
            self._scorer.load_state_dict(self._restored, data_of(trainer).resume_data)
            self._restored = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        assert isinstance(pl_module, WrinkleFreeLightningModule)
        if self._policy.needs is Needs.losses and pl_module.source_sums is not None:
            self._sums.add(pl_module.source_sums)
        super().on_train_batch_end(trainer, pl_module, *args, **kwargs)

    def on_step_end(self, trainer: L.Trainer, module: WrinkleFreeLightningModule, step: int) -> None:
        is_turn = self._turns.is_after(step) and step < trainer.max_steps
        if is_turn and self._policy.needs is not Needs.nothing:
            self._turn(trainer, module)
        module.step_metrics |= {f"mixture/{name}": weight for name, weight in self._weights.items()}
        module.step_metrics |= self._policy.figures()

    def _turn(self, trainer: L.Trainer, module: WrinkleFreeLightningModule) -> None:
        evidence = self._observed(trainer, module)
        if not (evidence.losses or evidence.gradients):
            self._tell_of_nothing()
            return
        weights: Weights = trainer.strategy.broadcast(self._policy.update(self._weights, evidence))
        if max(abs(weights[name] - weight) for name, weight in self._weights.items()) > _NO_CHANGE:
            self._weights = weights
            data_of(trainer).set_weights(weights)

    def _tell_of_nothing(self) -> None:
        """Objectives may have no losses of tokens, in all steps or in some (of the student's own text)."""
        if not self._has_told:
            LOG.warning(
                "training.mixture: no objective has given losses of tokens since the last turn, so the "
                "weights stay; choose policy=influence, or an objective that compares tokens"
            )
            self._has_told = True

    def _observed(self, trainer: L.Trainer, module: WrinkleFreeLightningModule) -> Evidence:
        if self._policy.needs is Needs.losses:
            return Evidence(losses=self._sums.take(trainer, data_of(trainer).num_readers))
        assert self._scorer is not None
        start_s = time.perf_counter()
        with kept_random_state():
            gradients = self._scorer.products(trainer, module.optimizer_config)
        module.step_metrics["train/scoring_s"] = time.perf_counter() - start_s
        return Evidence(gradients=gradients)

    def state_dict(self) -> dict[str, Any]:
        """Called on every rank."""
        state = {
            "weights": self._weights,
            "policy": self._policy.state_dict(),
            "sums": self._sums.state_dict(),
        }
        return state if self._scorer is None else state | {"scorer": self._scorer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._weights = dict(state_dict["weights"])
        self._policy.load_state_dict(state_dict["policy"])
        self._sums.load_state_dict(state_dict["sums"])
        self._restored = state_dict.get("scorer")
