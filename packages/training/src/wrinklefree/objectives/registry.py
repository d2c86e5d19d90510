"""Names of the objectives, their option schemas and where their classes live.

A further objective is one file with an `Objective` subclass and one entry here. Classes are named
by strings and imported on use, so that composing a configuration imports no torch. Other packages
add theirs with `register`.
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wrinklefree.config import schema

if TYPE_CHECKING:
    from wrinklefree.objectives.base import Objective


@dataclass(frozen=True)
class Entry:
    config: type[schema.ObjectiveConfig]
    target: str
    """`module:Class`."""


_ENTRIES: dict[str, Entry] = {
    "continue_pretrain": Entry(
        schema.ContinuePretrainConfig,
        "wrinklefree.objectives.continue_pretrain:ContinuePretrain",
    ),
    "layerwise": Entry(
        schema.LayerwiseConfig,
        "wrinklefree.objectives.layerwise:Layerwise",
    ),
}


def register(name: str, entry: Entry) -> None:
    """Add an objective. Raises ValueError when the name is taken."""
    if name in _ENTRIES:
        raise ValueError(f"the objective '{name}' is registered already: {_ENTRIES[name].target}")
    _ENTRIES[name] = entry


def _entry(name: str) -> Entry:
    if name not in _ENTRIES:
        near = difflib.get_close_matches(name, _ENTRIES, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise KeyError(f"unknown objective '{name}'; known: {', '.join(_ENTRIES)}.{hint}")
    return _ENTRIES[name]


def config_class(name: str) -> type[schema.ObjectiveConfig]:
    return _entry(name).config


def build_objective(name: str, config: schema.ObjectiveConfig) -> Objective:
    """Import the class of `name` and build it from its options. Raises KeyError if unknown."""
    module, _, attribute = _entry(name).target.partition(":")
    objective: Objective = getattr(importlib.import_module(module), attribute)(config)
    return objective
