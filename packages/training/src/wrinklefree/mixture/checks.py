"""What of `training.mixture` cannot be, found when the configuration is composed. Imports no PyTorch."""

from __future__ import annotations

from wrinklefree.config.errors import ConfigError
from wrinklefree.config.lengths import gradient_options
from wrinklefree.config.mixture import MixtureConfig, Policy
from wrinklefree.config.root import TrainConfig
from wrinklefree.config.training import Trained
from wrinklefree.mixture.registry import bounds_of
from wrinklefree.mixture.turns import turns_of

_KEY = "training.mixture"


def check_mixture(config: TrainConfig) -> None:
    """Raises: ConfigError naming the key and the value."""
    mixture = gradient_options(config).mixture
    if mixture.policy is not Policy.influence and mixture.influence.probes:
        raise ConfigError(
            f"{_KEY}.influence.probes with {_KEY}.policy={mixture.policy}: probes steer policy=influence "
            "alone; choose that, or leave them out"
        )
    if mixture.policy is Policy.fixed:
        return
    if len(config.data.sources) < 2:
        raise ConfigError(
            f"{_KEY}.policy={mixture.policy} with one source in data.sources: there is nothing to weigh; "
            f"give another source, or {_KEY}.policy=fixed"
        )
    for source in config.data.sources:
        if source.weight == 0:
            raise ConfigError(
                f"data.sources: '{source.name}' has weight 0, and {_KEY}.policy={mixture.policy} would draw "
                "it: leave it out, or give it a weight"
            )
    if mixture.policy.moves:
        _check_moving(config, mixture)
    if mixture.policy is Policy.influence:
        _check_influence(config, mixture)


def refuse_moving(config: TrainConfig, who: str) -> None:
    """Raises: ConfigError for a policy that moves, said of `who`, which has to know the text before."""
    policy = gradient_options(config).mixture.policy
    if policy.moves:
        raise ConfigError(
            f"{_KEY}.policy={policy} with {who}: which text a run reads depends on how it goes; choose "
            "policy=fixed or uniform"
        )


def _check_moving(config: TrainConfig, mixture: MixtureConfig) -> None:
    for source in config.data.sources:
        if not source.repeat:
            raise ConfigError(
                f"data.sources: '{source.name}' has repeat=false, and a source that ends leaves the mixture "
                f"that {_KEY}.policy={mixture.policy} steers: set repeat=true"
            )
    max_steps = gradient_options(config).max_steps
    turns = turns_of(gradient_options(config), len(config.data.sources))
    if max_steps is not None and turns.first >= max_steps:
        key, value = ("every_steps", mixture.every_steps)
        if mixture.first_step is not None or turns.first != turns.every:
            key, value = ("first_step", mixture.first_step)
        by_itself = " (by itself)" if value is None else ""
        fix = f"{_KEY}.{key}={max(1, max_steps // 10)}" if max_steps > 1 else "training.max_steps=2 or more"
        raise ConfigError(
            f"{_KEY}.{key}={turns.first}{by_itself} and training.max_steps={max_steps}: the run ends before "
            f"{_KEY}.policy={mixture.policy} weighs the sources once; give {fix}"
        )
    try:
        bounds_of(mixture).check(len(config.data.sources))
    except ValueError as error:
        raise ConfigError(f"{_KEY}.{error}") from error


def _check_influence(config: TrainConfig, mixture: MixtureConfig) -> None:
    probes = mixture.influence.probes
    if not probes:
        raise ConfigError(
            f"{_KEY}.policy=influence without {_KEY}.influence.probes: name the texts that the model shall "
            "become good at, such as [{kind: path, name: exam, location: exam.jsonl}]"
        )
    names = [probe.name for probe in probes]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{_KEY}.influence.probes: '{doubled[0]}' names two of them; give each its own")
    if not any(probe.weight for probe in probes):
        raise ConfigError(f"{_KEY}.influence.probes: all weights are 0; give a probe one above 0")
    if config.distributed.kind.is_sharded:
        raise ConfigError(
            f"{_KEY}.policy=influence takes gradients of whole weights, and distributed="
            f"{config.distributed.kind} shards them: choose distributed=ddp, or policy=odm"
        )
    if gradient_options(config).trained is Trained.low_rank:
        raise ConfigError(
            f"{_KEY}.policy=influence takes gradients of the blocks' weights, and training.trained=low_rank "
            "leaves them as they are: choose policy=odm"
        )
