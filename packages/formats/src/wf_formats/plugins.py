"""What installed distributions register as entry points: names first, imported when one is looked up.

[project.entry-points."wrinklefree.objectives"]
my_objective = "my_package.my_objective:MyObjective"
"""

from __future__ import annotations

from collections.abc import Collection
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from wf_formats.errors import UserError


class PluginError(UserError, ValueError):
    """What a distribution registers cannot be used; the message names it and the remedy."""


def entries(group: str, built_in: Collection[str] = ()) -> dict[str, EntryPoint]:
    """The entry points of a group by name, sorted; nothing is imported.

    Args: built_in are names that are taken already.
    Raises: PluginError (a name that is registered twice, or built in).
    """
    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=group), key=lambda entry: entry.name):
        if entry.name in built_in:
            raise PluginError(
                f"{group}: '{entry.name}' of {_distribution(entry)} is the name of a built-in: "
                "rename it there, or uninstall it"
            )
        taken = found.setdefault(entry.name, entry)
        if taken is not entry:
            raise PluginError(
                f"{group}: '{entry.name}' is registered twice: {taken.value}, {entry.value} "
                f"(by {_distribution(taken)} and {_distribution(entry)}); uninstall one of them"
            )
    return found


def load(entry: EntryPoint) -> Any:
    """What the entry point names. Raises: PluginError when its module does not import or lacks it."""
    try:
        return entry.load()
    except Exception as error:  # whatever a foreign module raises while it is imported
        raise PluginError(
            f"{entry.group}: '{entry.name}' of {_distribution(entry)} cannot be loaded from {entry.value}: "
            f"{type(error).__name__}: {error}; repair or uninstall it"
        ) from error


def _distribution(entry: EntryPoint) -> str:
    return "an unknown distribution" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
