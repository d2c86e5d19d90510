"""What other distributions add by an entry point: stages, objectives, teachers.

An entry point's name is what users type; its value names a class in a module that imports no PyTorch,
so that configurations are read and --help answers at once: what needs PyTorch is imported where it is
used. A further stage, objective or teacher is one file and one line of pyproject.toml:

    [project.entry-points."wrinklefree.objectives"]
    my_objective = "my_package.my_objective:MyObjective"
"""

from __future__ import annotations

import difflib
import functools
import importlib.metadata
from typing import Any


class UnknownNameError(KeyError):
    """Nothing is registered under a name; the message lists what is, and the nearest."""

    def __str__(self) -> str:
        return str(self.args[0])


@functools.cache
def registered(group: str) -> dict[str, Any]:
    """The classes of a group of entry points by name, in the order of their names.

    Raises: ValueError when two distributions register the same name.
    """
    found: dict[str, importlib.metadata.EntryPoint] = {}
    for entry in sorted(importlib.metadata.entry_points(group=group), key=lambda entry: entry.name):
        taken = found.setdefault(entry.name, entry)
        if taken.value != entry.value:
            raise ValueError(f"{group}: '{entry.name}' is registered twice: {taken.value}, {entry.value}")
    return {name: entry.load() for name, entry in found.items()}


def lookup(group: str, kind: str, name: str) -> Any:
    """The class registered as `name`. Raises: UnknownNameError that speaks of a `kind`."""
    known = registered(group)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise UnknownNameError(f"unknown {kind} '{name}'; known: {', '.join(known)}.{hint}")
    return known[name]
