"""The command lines that there are, as children/surface.py reads them off the programs themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class Option:
    """Attributes: values is how many words follow (None: any number); choices, if only some words may."""

    values: int | None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Surface:
    """Attributes: most_arguments of those without a dash (None: any number); commands, if it is a group."""

    options: Mapping[str, Option] = field(default_factory=dict)
    most_arguments: int | None = None
    commands: Mapping[str, Surface] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(
            {
                name: Option(option["values"], tuple(option["choices"]))
                for name, option in value["options"].items()
            },
            value["most_arguments"],
            {name: cls.from_json(command) for name, command in value["commands"].items()},
        )
