"""What a run's mixture needs: probes, held out of its data, the callbacks, and the picture at the end."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L

from data_handler.held_out import HeldOut
from data_handler.influence import ProbeSet
from data_handler.influence.probes import hold_out
from wrinklefree import callbacks as cb
from wrinklefree.config.lengths import gradient_options
from wrinklefree.config.mixture import MixtureConfig, Policy
from wrinklefree.config.root import TrainConfig
from wrinklefree.mixture.plot import draw_mixture
from wrinklefree.mixture.policy import Weights
from wrinklefree.mixture.registry import build_policy, configured_weights, first_weights
from wrinklefree.mixture.scoring import Sequences, SourceScorer
from wrinklefree.mixture.turns import pass_sequences, turns_of

LOG = logging.getLogger("wrinklefree")


@dataclass(frozen=True)
class Probes:
    """held_out: passes their documents over wherever the run's data has one."""

    sets: Sequence[ProbeSet]
    held_out: HeldOut


def open_probes(config: TrainConfig) -> Probes:
    """Raises: DataError."""
    sets = [ProbeSet(source) for source in gradient_options(config).mixture.influence.probes]
    return Probes(sets, hold_out(sets, drop=True))


def data_callbacks(config: TrainConfig, tokenizer: Any, probes: Probes | None) -> list[L.Callback]:
    """Of a run with several sources: who logs their losses, and who weighs them."""
    sources, training = config.data.sources, gradient_options(config)
    if len(sources) < 2:
        return []
    found: list[L.Callback] = [
        cb.SourceLosses([source.name for source in sources], config.logging.every_steps)
    ]
    mixture = training.mixture
    if mixture.policy is Policy.fixed:
        return found

    def scorer(model: Any) -> SourceScorer:
        assert probes is not None
        sequences = Sequences(tokenizer, training.sequence_length_tokens, pass_sequences(training))
        return SourceScorer(
            mixture.influence, model, sources, probes.sets, sequences, config.seed, probes.held_out
        )

    weights = first_weights(mixture, sources)
    if weights is not None and mixture.policy.moves:
        _tell(mixture, weights)
    return [
        *found,
        cb.Mixture(
            build_policy(mixture, sources),
            weights or configured_weights(sources),
            turns_of(training, len(sources)),
            None if probes is None else scorer,
        ),
    ]


def _tell(mixture: MixtureConfig, weights: Weights) -> None:
    LOG.warning(
        "the configured weights are outside of training.mixture.floor=%g and cap=%g: the run begins with %s",
        mixture.floor,
        mixture.cap,
        ", ".join(f"{name} {weight:.3g}" for name, weight in weights.items()),
    )


def draw_if_steered(config: TrainConfig, run_folder: Path) -> None:
    """`mixture.png`, of a run whose policy is not `fixed`."""
    if gradient_options(config).mixture.policy is not Policy.fixed:
        draw_mixture(run_folder)
