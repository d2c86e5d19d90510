"""Losses by source of the data: sums and counts, on the device of the training until somebody asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor

from wrinklefree.distributed import gather_from_ranks, num_ranks, rank
from wrinklefree.objectives.base import TokenLosses


def by_source(losses: TokenLosses, source_ids: Tensor, num_sources: int) -> Tensor:
    """float64 [2, num_sources]: sums of the losses of each source's tokens, and how many they are.

    Products instead of index_add_, whose order of sums differs from run to run on a GPU.

    Args: source_ids [batch, tokens], -1 where a token is of none.
    """
    numbers = torch.arange(num_sources, device=source_ids.device)
    chosen = ((source_ids.flatten() == numbers[:, None]) & losses.counted.flatten()).double()
    values = losses.values.flatten().double()
    return torch.stack([chosen @ values, chosen.sum(1)])


class SourceSums:
    """What `by_source` gave since the last `take`."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._sums = torch.zeros(2, len(self._names), dtype=torch.float64)

    def add(self, sums: Tensor) -> None:
        self._sums = self._sums.to(sums.device) + sums

    def take(self, trainer: L.Trainer, num_readers: int) -> dict[str, float]:
        """Mean loss of a token by source, of those that were seen, over the ranks that have batches of their
        own (called on every rank)."""
        sums, self._sums = self._sums, torch.zeros_like(self._sums)
        if num_readers > 1:
            # A rank that has seen nothing yet has its zeros on the CPU.
            summed: Any = trainer.strategy.reduce(sums.to(trainer.strategy.root_device), reduce_op="sum")
            sums = summed
        losses, counts = sums.tolist()
        found = zip(self._names, losses, counts, strict=True)
        return {name: loss / count for name, loss, count in found if count}

    def state_dict(self) -> dict[str, Any]:
        """Called on every rank."""
        return {"ranks": gather_from_ranks(self._sums.cpu())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """With another number of ranks the first takes all."""
        ranks = list(state["ranks"])
        if len(ranks) != num_ranks():
            total = torch.stack(ranks).sum(0)
            ranks = [total, *[torch.zeros_like(total)] * (num_ranks() - 1)]
        self._sums = ranks[rank()]
