"""Whether one version can fit several bounds.

Bounds have finitely many ends; if any version fits, so does an end, one just above an end, or zero.
"""

from __future__ import annotations

from collections.abc import Sequence

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

_MOST_ENDS = 300
"""Each is tried against each; more are no honest declaration."""


def is_satisfiable(bounds: Sequence[SpecifierSet]) -> bool:
    """True where it is not certain: versions that cannot be compared (`===`) exclude nothing."""
    candidates = ["0"]
    ends = [one for several in bounds for one in several]
    if len(ends) > _MOST_ENDS:
        return True
    for specifier in ends:
        end = specifier.version.removesuffix(".*")
        candidates += [end, f"{end}.0.0.1"]
        if specifier.operator == "===":
            return True
    return any(_fits(candidate, bounds) for candidate in candidates)


def _fits(candidate: str, bounds: Sequence[SpecifierSet]) -> bool:
    try:
        version = Version(candidate)
    except InvalidVersion:  # an end with a suffix has nothing just above it that can be written so
        return False
    return all(several.contains(version, prereleases=True) for several in bounds)
