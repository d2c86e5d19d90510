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
from importlib.metadata import EntryPoint
from typing import Any

from wf_formats.plugins import entries, load


class UnknownNameError(KeyError):
    """Nothing is registered under a name; the message lists what is, and the nearest."""

    def __str__(self) -> str:
        return str(self.args[0])


@functools.cache
def registered(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group by name, sorted. Raises: PluginError for a name registered twice."""
    return entries(group)


def load_all(group: str) -> dict[str, Any]:
    """The classes of a group by name. Raises: PluginError (a name registered twice, a broken plugin)."""
    return {name: load(entry) for name, entry in registered(group).items()}


def lookup(group: str, kind: str, name: str) -> Any:
    """The class registered as `name`; no other is loaded.

    Raises: UnknownNameError that speaks of a `kind`, PluginError.
    """
    known = registered(group)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise UnknownNameError(f"unknown {kind} '{name}'; known: {', '.join(known)}.{hint}")
    return load(known[name])
