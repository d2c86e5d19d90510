"""Recipes: settings of a whole run, in a file of `configs/recipe`, taken with the experiment of its name.

`experiment=h100_25min` names the run and takes `configs/recipe/h100_25min.yaml`; what else the command line
says goes over it. A recipe says which stage it is for (`training.stage`), and another stage refuses it.
"""

from __future__ import annotations

from collections.abc import Sequence

from wrinklefree.compose.schemas import group_options

GROUP = "recipe"
_KEY = "experiment="


def with_recipe(overrides: Sequence[str]) -> list[str]:
    """The overrides, with the recipe that the experiment is named after, if there is one."""
    names = [text.removeprefix(_KEY) for text in overrides if text.startswith(_KEY)]
    chosen = names[-1:] if names and names[-1] in group_options(GROUP) else []
    return [*(f"+{GROUP}@_global_={name}" for name in chosen), *overrides]
