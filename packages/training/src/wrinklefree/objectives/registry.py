"""The objectives that are installed, by name."""

from __future__ import annotations

from wrinklefree.objectives.base import Objective, ObjectiveConfig
from wrinklefree.plugins import load_all, lookup

GROUP = "wrinklefree.objectives"


def objective_schemas() -> list[type[ObjectiveConfig]]:
    return [kind.config for kind in load_all(GROUP).values()]


def objective_schema(name: str) -> type[ObjectiveConfig]:
    """Raises: UnknownNameError."""
    kind: type[Objective] = lookup(GROUP, "objective", name)
    return kind.config


def build_objective(name: str, config: ObjectiveConfig) -> Objective:
    """The objective `name` with its options. Raises: UnknownNameError."""
    kind: type[Objective] = lookup(GROUP, "objective", name)
    return kind(config)
