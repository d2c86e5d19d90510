"""The data of a run in shares that its processes divide between them.

A run has as many shares as it began with processes, or `data.num_shares`; each is a loader with documents of
its own. The forward passes of a step, over all processes, take the shares in turn: pass t of the run takes
share t modulo their number. So each step has the same sequences with any number of processes that divides
the number of shares, as long as its passes are as many; no document comes twice and none is lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from data_handler import PackedLoader
from data_handler.skipped import Skipped, summed
from wrinklefree.distributed import RanksError


class Place(NamedTuple):
    """Where a process stands: passes that it has made, and the state of each of its shares."""

    num_passes: int
    states: list[dict[str, Any]]


def numbers_of(rank: int, num_ranks: int, num_shares: int) -> range:
    """The shares of a process. Raises: RanksError where the processes do not divide them."""
    if num_shares % num_ranks:
        fitting = ", ".join(str(number) for number in range(1, num_shares + 1) if num_shares % number == 0)
        raise RanksError(
            f"the data of this run is in shares, {num_shares} of them, which {num_ranks} processes do not "
            f"divide: go on with one of {fitting} (distributed.devices x distributed.num_nodes). A run that "
            "begins with data.num_shares=N goes on with any number of processes that divides N"
        )
    return range(rank, num_shares, num_ranks)


def in_order(ranks: Sequence[Sequence[Any]]) -> list[Any]:
    """What each process has for its shares, by the number of the share."""
    return [of_rank[place] for place in range(len(ranks[0])) for of_rank in ranks]


class InTurn:
    """The loaders of a process's shares as one; a batch's `state` is a `Place`.

    Args: num_passes is how many this process has made, or would have with the shares that it has now.
    """

    def __init__(self, loaders: Sequence[PackedLoader], num_passes: int = 0) -> None:
        self._loaders = list(loaders)
        self._num_passes = num_passes

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Until one of them has no more."""
        place = self.place()
        batches = [iter(loader) for loader in self._loaders]
        while (batch := next(batches[place.num_passes % len(batches)], None)) is not None:
            states = list(place.states)
            states[place.num_passes % len(batches)] = batch["state"]
            place = Place(place.num_passes + 1, states)
            yield {**batch, "state": place}

    def place(self, after: Place | None = None) -> Place:
        """With all that is to be stored; after the batch that came with `after`, or before the first."""
        if after is None:
            return Place(self._num_passes, [loader.state_dict() for loader in self._loaders])
        pairs = zip(self._loaders, after.states, strict=True)
        return Place(after.num_passes, [loader.state_dict(after=state) for loader, state in pairs])

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """For all of them: each shares its documents out by them."""
        for loader in self._loaders:
            loader.set_weights(weights)

    def skipped(self, after: Place | None = None) -> dict[str, Skipped]:
        """Bad records that were passed over, by source."""
        pairs = zip(self._loaders, self.place(after).states, strict=True)
        found = [loader.skipped(state) for loader, state in pairs]
        return all_skipped(found)


def all_skipped(found: Sequence[Mapping[str, Skipped]]) -> dict[str, Skipped]:
    """The sum, by source."""
    names = dict.fromkeys(name for each in found for name in each)
    return {name: summed(each[name] for each in found if name in each) for name in names}
