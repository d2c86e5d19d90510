"""The policies, and the weights that a run begins with. Imports no PyTorch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from data_handler.config import SourceConfig
from wrinklefree.config.mixture import MixtureConfig, Policy
from wrinklefree.mixture.influence import Influence
from wrinklefree.mixture.odm import Odm
from wrinklefree.mixture.policy import MixturePolicy, Weights
from wrinklefree.mixture.simplex import Bounds, projected
from wrinklefree.mixture.still import Still


def _odm(config: MixtureConfig, configured: Weights) -> MixturePolicy:
    return Odm(list(configured), config.odm.smoothing, projected(config.projection, bounds_of(config)))


def _influence(config: MixtureConfig, configured: Weights) -> MixturePolicy:
    options = config.influence
    onto = projected(config.projection, bounds_of(config))
    return Influence(configured, options.step_size, options.ema_decay, onto)


POLICIES: dict[Policy, Callable[[MixtureConfig, Weights], MixturePolicy]] = {
    Policy.fixed: lambda config, configured: Still(),
    Policy.uniform: lambda config, configured: Still(),
    Policy.odm: _odm,
    Policy.influence: _influence,
}


def build_policy(config: MixtureConfig, sources: Sequence[SourceConfig]) -> MixturePolicy:
    return POLICIES[config.policy](config, configured_weights(sources))


def bounds_of(config: MixtureConfig) -> Bounds:
    return Bounds(config.floor, config.cap)


def configured_weights(sources: Sequence[SourceConfig]) -> Weights:
    """Shares that sum to 1; zeros, which the loader refuses by name, stay zeros."""
    total = math.fsum(source.weight for source in sources) or 1.0
    return {source.name: source.weight / total for source in sources}


def first_sources(config: MixtureConfig, sources: Sequence[SourceConfig]) -> list[SourceConfig]:
    """The sources with the weights that a run begins with."""
    weights = first_weights(config, sources) or {}
    return [dataclasses.replace(source, weight=weights.get(source.name, source.weight)) for source in sources]


def first_weights(config: MixtureConfig, sources: Sequence[SourceConfig]) -> Weights | None:
    """Those that a run begins with; None: what is configured.

    None too where a policy that moves begins within its bounds, so that the data is that of a run with
    policy=fixed to the bit.
    """
    if config.policy is Policy.uniform:
        return {source.name: 1 / len(sources) for source in sources}
    weights, bounds = configured_weights(sources), bounds_of(config)
    if not config.policy.moves or bounds.contain(list(weights.values())):
        return None
    onto = projected(config.projection, bounds)
    return dict(zip(weights, onto([math.log(weight) for weight in weights.values()]), strict=True))
