"""Which rank holds what: rows of sharded tensors while training, whole tensors while saving.

FSDP2 gives each rank the same number of rows (the first dimension), rounded up, as long as there are any.
A checkpoint holds whole tensors, so that it is read as any other: each has an owner, which alone gets its
rows from the others. Owners have about the same number of bytes, so each rank needs host memory for its
share and, on the device, for the largest tensor; nobody ever holds the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from wrinklefree.distributed import rank


def rows_of(num_rows: int, number: int, num_ranks: int) -> slice:
    """The rows of a sharded tensor that rank `number` has; fewer or none at the end."""
    height = math.ceil(num_rows / num_ranks)
    return slice(min(num_rows, number * height), min(num_rows, (number + 1) * height))


def sharded_like(rows: Tensor, reference: DTensor) -> DTensor:
    """A tensor of the reference's shape from this rank's rows."""
    local = rows.to(reference.to_local().device)
    shape, stride = reference.shape, reference.stride()
    return DTensor.from_local(
        local, reference.device_mesh, reference.placements, run_check=False, shape=shape, stride=stride
    )


def owners(num_bytes: Mapping[str, int], num_ranks: int) -> dict[str, int]:
    """A rank for each tensor: the largest first, each to the rank that has least."""
    loads, found = [0] * num_ranks, {}
    for name in sorted(num_bytes, key=lambda name: num_bytes[name], reverse=True):
        found[name] = loads.index(min(loads))
        loads[found[name]] += num_bytes[name]
    return found


def take_share(tensors: Mapping[str, Tensor], num_owners: int | None = None) -> dict[str, Tensor]:
    """The tensors that this rank owns, whole and in host memory; those that are not sharded are the first
    one's. Every rank has to call it, with the same sharded tensors in the same order.

    Args: num_owners of the first ranks own tensors; None: all.
    """
    sharded = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, DTensor)}
    share = {name: tensor for name, tensor in tensors.items() if name not in sharded} if rank() == 0 else {}
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in sharded.items()}
    owner_of = owners(sizes, num_owners or dist.get_world_size()) if sharded else {}
    for name, tensor in sharded.items():
        whole = _gathered(tensor, owner_of[name])
        if whole is not None:
            share[name] = whole
    return share


def _gathered(tensor: DTensor, owner: int) -> Tensor | None:
    """The whole tensor at its owner. Collective."""
    assert tensor.placements == (Shard(0),)
    num_ranks, (num_rows, *rest) = dist.get_world_size(), tensor.shape
    height = math.ceil(num_rows / num_ranks)
    rows = tensor.to_local().contiguous()
    if len(rows) < height:  # all ranks have to send as much
        rows = torch.cat([rows, rows.new_zeros(height - len(rows), *rest)])
    if rank() != owner:
        dist.gather(rows, None, owner)
        return None
    whole = rows.new_empty(height * num_ranks, *rest)
    dist.gather(rows, list(whole.split(height)), owner)
    return whole[:num_rows].cpu()
