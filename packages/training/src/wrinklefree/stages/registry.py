"""The stages that are installed, by number, name and option."""

from __future__ import annotations

from collections.abc import Iterable

from wf_formats.plugins import PluginError
from wrinklefree.config.errors import ConfigError
from wrinklefree.config.root import TrainConfig
from wrinklefree.plugins import load_all
from wrinklefree.stages.base import Stage

GROUP = "wrinklefree.stages"


def stages() -> list[Stage]:
    """All stages in the order in which a model passes them.

    Raises: PluginError (a broken plugin, a stage that is registered under another number than its own).
    """
    found = []
    for number, kind in load_all(GROUP).items():
        stage: Stage = kind()
        if (number, stage.config.stage) != (stage.number, stage.name):
            raise PluginError(
                f"{GROUP}: {kind.__qualname__} is registered as '{number}' with the schema of "
                f"'{stage.config.stage}'; its number is '{stage.number}' and its name '{stage.name}'"
            )
        found.append(stage)
    return sorted(found, key=lambda stage: stage.order)


def stage_by_number(number: str) -> Stage:
    """Raises: ConfigError that lists the numbers."""
    for stage in stages():
        if stage.number == number:
            return stage
    raise ConfigError(f"unknown stage '{number}'; known: {', '.join(s.number for s in stages())}")


def stage_by_name(name: str) -> Stage:
    """Raises: ConfigError that lists the names."""
    for stage in stages():
        if stage.name == name:
            return stage
    raise ConfigError(f"unknown stage '{name}'; known: {', '.join(s.name for s in stages())}")


def stage_of(config: TrainConfig) -> Stage:
    """The stage of a configuration. Raises: ConfigError when `training` is that of another stage."""
    stage = stage_by_name(config.training.stage)
    if not isinstance(config.training, stage.config):
        raise ConfigError(wrong_stage(stage.name))
    return stage


def wrong_stage(name: str) -> str:
    """What is said of a `training.stage` that another stage's keys were given with."""
    stage = stage_by_name(name)
    return (
        f"training.stage={name}: choose a stage with training={stage.option} or -s {stage.number}, and leave "
        "training.stage out"
    )


def check_accepted(names: Iterable[str]) -> None:
    """Raises: ConfigError for an unknown stage in training.accept_from."""
    for name in names:
        try:
            stage_by_name(name)
        except ConfigError as error:
            raise ConfigError(f"training.accept_from: {error}") from error
