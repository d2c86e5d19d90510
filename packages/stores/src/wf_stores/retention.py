"""Which of a run's checkpoints to keep: the last few, every so many steps, the best, and those in use.

A checkpoint is an upload called `step_<number>` (`step_00000500`), and a run's lie in one folder. Others
(`final`, `llama3`, `mine_v2`) are none, whatever digits they have, and are never removed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from wf_stores.inventory import list_uploads, remove_upload
from wf_stores.store import Store

_STEP = re.compile(r"step_([0-9]+)")


@dataclass(frozen=True)
class Keep:
    """last: how many of the newest (1 at least); every: also those whose number it divides, None: none;
    best: names that are kept whatever their number."""

    last: int
    every: int | None = None
    best: Collection[str] = ()

    def __post_init__(self) -> None:
        if self.last < 1 or (self.every is not None and self.every < 1):
            raise ValueError(f"last={self.last}, every={self.every}: give 1 or more")


def number_of(name: str) -> int | None:
    """`run/step_00000500` is 500; None for what is called otherwise."""
    found = _STEP.fullmatch(name.rpartition("/")[2])
    return int(found[1]) if found else None


def superfluous(names: Sequence[str], keep: Keep) -> list[str]:
    """The names that `keep` does not cover, oldest first."""
    numbered = sorted((number, name) for name in names if (number := number_of(name)) is not None)
    return [
        name
        for number, name in numbered[: -keep.last]
        if not (keep.every is not None and number % keep.every == 0) and name not in keep.best
    ]


def numbered(store: Store, under: str) -> list[str]:
    """Names of the complete checkpoints directly below a name."""
    prefix = f"{under}/" if under else ""
    names = [upload.name for upload in list_uploads(store, under) if upload.is_complete]
    return [name for name in names if "/" not in name.removeprefix(prefix) and number_of(name) is not None]


def retain(store: Store, under: str, keep: Keep, in_use: Collection[str] = ()) -> list[str]:
    """Removes the superfluous ones of the complete checkpoints directly below a name.

    Args:
        in_use: names that somebody reads now.

    Returns:
        names of those that were removed.
    """
    removed = [name for name in superfluous(numbered(store, under), keep) if name not in in_use]
    for name in removed:
        remove_upload(store, name)
    return removed
