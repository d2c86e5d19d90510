"""Data that changed between a checkpoint and the run that resumes it: refused, unless the user says how.

Whatever is chosen, the run does not equal one to the bit that always had the data it has now; so the choice,
the step and the sources stand in its figures (summary.json, figures.json).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from wrinklefree.config.root import ChangedData
from wrinklefree.errors import RunError

LOG = logging.getLogger("wrinklefree")
_MEANING = {
    ChangedData.position: "goes on in the changed data, where it stood in the old",
    ChangedData.fresh: "starts the changed data at its beginning, with weights and optimizer as they are",
}


def decide(choice: ChangedData | None, sources: Sequence[str], where: object) -> ChangedData:
    """What to do about changed sources.

    Args: where is the run or checkpoint that had the data.
    Raises: RunError that names both choices, if none was made.
    """
    names = ", ".join(sources)
    if choice is None:
        choices = "; ".join(f"resume.data={each} {_MEANING[each]}" for each in ChangedData)
        raise RunError(
            f"{where}: the data has changed since (source {names}). Put it back as it was, or choose: "
            f"{choices}. Neither gives a run to the bit. force=true starts the run again."
        )
    LOG.warning(
        "the data has changed (source %s): resume.data=%s %s. The run will not equal one without the change.",
        names,
        choice,
        _MEANING[choice],
    )
    return choice


def changed_sources(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of the sources that differ between two fingerprints of the loader (`source <name>` in them)."""
    prefix = "source "
    keys = [key for key in {**saved, **now} if key.startswith(prefix) and saved.get(key) != now.get(key)]
    return sorted(key.removeprefix(prefix) for key in keys)
