"""Small helpers around torch.distributed that also work in a single process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch.distributed as dist

from wf_formats.boundary import explained
from wf_formats.errors import UserError

T = TypeVar("T")


class RanksError(UserError, ValueError):
    """A checkpoint of another number of processes; the message has both."""


class SharedError(UserError, RuntimeError):
    """An error of one process that ends them all; the message says whose it is."""


def is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if is_distributed() else 0


def num_ranks() -> int:
    return dist.get_world_size() if is_distributed() else 1


def gather_from_ranks(value: T, group: dist.ProcessGroup | None = None) -> list[T]:
    """The values of all ranks, in order, on every rank. Every rank has to call it.

    Args: group is one of all ranks for a thread of its own; None: that of the training.
    """
    if not is_distributed():
        return [value]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value, group)
    return gathered


def own_share(values: list[T], what: str) -> T:
    """This rank's entry of a list made by `gather_from_ranks`.

    Raises: RanksError when the list comes from another number of ranks.
    """
    if len(values) != num_ranks():
        raise RanksError(
            f"the checkpoint holds {what} of {len(values)} processes and this run has {num_ranks()}: "
            "resume with the same number (distributed.devices x distributed.num_nodes)"
        )
    return values[rank()]


def together(action: Callable[[], T], group: dist.ProcessGroup | None = None) -> list[T]:
    """What an action gives on each rank, in order, on every rank. Every rank has to call it.

    Args: group as in `gather_from_ranks`.

    Raises: SharedError on all of them where it raised an OSError or UserError on one; in one process that.
    """
    if not is_distributed():
        return [action()]
    value, failure = None, None
    try:
        value = action()
    except (OSError, UserError) as error:
        failure = explained(error) if isinstance(error, OSError) else str(error)
    outcomes = gather_from_ranks((value, failure), group)
    for number, (_, message) in enumerate(outcomes):
        if message is not None:
            raise SharedError(f"process {number} of {len(outcomes)}: {message}")
    return [cast(T, value) for value, _ in outcomes]
