"""Small helpers around torch.distributed that also work in a single process."""

from __future__ import annotations

from typing import Any, TypeVar

import torch.distributed as dist

from wf_formats.errors import UserError

T = TypeVar("T")


class RanksError(UserError, ValueError):
    """A checkpoint of another number of processes; the message has both."""


def is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if is_distributed() else 0


def gather_from_ranks(value: T) -> list[T]:
    """The values of all ranks, in order, on every rank. Every rank has to call it."""
    if not is_distributed():
        return [value]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def own_share(values: list[T], what: str) -> T:
    """This rank's entry of a list made by `gather_from_ranks`.

    Raises: RanksError when the list comes from another number of ranks.
    """
    world_size = dist.get_world_size() if is_distributed() else 1
    if len(values) != world_size:
        raise RanksError(
            f"the checkpoint holds {what} of {len(values)} processes and this run has {world_size}: "
            "resume with the same number (distributed.devices x distributed.num_nodes)"
        )
    return values[rank()]


def full_tensor(value: Any) -> Any:
    """A sharded tensor gathered from all ranks; anything else as it is."""
    gather = getattr(value, "full_tensor", None)
    return gather() if gather is not None else value
