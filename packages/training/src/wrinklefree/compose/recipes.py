"""Recipes: settings of a whole run, in a file of `configs/recipe`, taken with the experiment of its name.

`experiment=h100_25min` names the run and takes `configs/recipe/h100_25min.yaml`; what else the command line
says goes over it. A recipe says which stage it is for (`training.stage`), and another stage refuses it:
stages before it have an experiment of another name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from wrinklefree.compose.schemas import group_files
from wrinklefree.config.errors import ConfigError
from wrinklefree.stages.registry import stage_by_name

GROUP = "recipe"


def recipe_override(overrides: Sequence[Override]) -> str | None:
    """What takes the recipe that the experiment is named after; None where there is none.

    Raises: ConfigError where another stage is chosen than the recipe's.
    """
    name = _last_value(overrides, "experiment")
    if not is_recipe(name):
        return None
    chosen = _last_value(overrides, "training")
    stage = stage_by_name(OmegaConf.load(group_files(GROUP)[name]).training.stage)
    if chosen not in (None, stage.option):
        raise ConfigError(
            f"experiment={name} is a recipe of stage {stage.number}, and training={chosen} is another stage: "
            f"choose -s {stage.number}, or another experiment=NAME. Stage {stage.number} goes on from any "
            "experiment's result with training.start_from=FOLDER."
        )
    return f"+{GROUP}@_global_={name}"


def set_by_recipe(overrides: Sequence[Override], key: str) -> str:
    """A sentence for the refusal of a key that the recipe sets; empty for others."""
    name = _last_value(overrides, "experiment")
    if not is_recipe(name) or any(override.key_or_group == key for override in overrides):
        return ""
    if OmegaConf.select(OmegaConf.load(group_files(GROUP)[name]), key) is None:
        return ""
    group = key.partition(".")[0]
    return f" The recipe of experiment={name} sets it: leave out {group}=..., or choose another experiment."


def is_recipe(experiment: Any) -> bool:
    return experiment in group_files(GROUP)


def _last_value(overrides: Sequence[Override], key: str) -> Any:
    """Without quotes; None where there is none."""
    return next((o.value() for o in reversed(overrides) if o.key_or_group == key), None)
