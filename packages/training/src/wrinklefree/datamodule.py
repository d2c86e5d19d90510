"""The Lightning data module: packed batches of data_handler with an exact position.

The position that a checkpoint stores is the state that came with the batch trained on last, not
what was fetched ahead. The loader is given a length (all batches of the run, or more than any run takes),
since Lightning fetches one batch ahead from a loader without one.

Of supervised records a batch may have few labels and the next many. Each forward pass gives a mean, and
Lightning takes the mean of these over accumulation and ranks; for the mean over the labels of the whole step
a batch carries `label_weight`, its share of them times the number of passes. Text has the same number of
labels in every batch but for a few (document starts), and carries none.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

import lightning as L
import torch
from torch import Tensor

from data_handler import DataError, PackedLoader, SourceConfig, make_loader
from data_handler.held_out import HeldOut
from data_handler.packing import IGNORED_LABEL
from wrinklefree.capture import View
from wrinklefree.changed_data import changed_sources, decide
from wrinklefree.config.root import ChangedData
from wrinklefree.data_shares import InTurn, Place, all_skipped, in_order, numbers_of
from wrinklefree.distributed import gather_from_ranks, num_ranks, rank

_ANY_LENGTH = 2**40
"""Batches of a loader that gives as many as are asked for."""


T = TypeVar("T")


class TimedLoader:
    """The loaders of a process with a length, a stopwatch for waiting and the place of the last batch."""

    def __init__(self, loader: InTurn, num_batches: int | None, weighted_batches: int | None = None) -> None:
        """Args: num_batches is None where the run is planned into a time; weighted_batches are those of a
        step on this rank, to be weighted by their labels."""
        self._loader = loader
        self._num_batches = num_batches
        self._weighted_batches = weighted_batches
        self._waited_s = 0.0
        self.last_place: Place | None = None

    def __len__(self) -> int:
        return self._num_batches or _ANY_LENGTH

    def __iter__(self) -> Iterator[View]:
        """Raises: DataError when the sources end before the run does."""
        batches = self._batches()
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self._waited_s += time.perf_counter() - start
            if batch is None:
                raise DataError(self._too_little())
            self.last_place = batch.pop("state")
            yield batch

    def _too_little(self) -> str:
        length, key = f"{self._num_batches} batches", "training.max_steps"
        if self._num_batches is None:
            length, key = "time", "training.minutes"
        return (
            f"the data ended before the run's {length}: set repeat on a source, or lower {key}. Either makes "
            "it another run: choose another experiment=NAME with it, or force=true to start this one again"
        )

    def _batches(self) -> Iterator[dict[str, Any]]:
        if self._weighted_batches is None:
            return iter(self._loader)
        return weighted(iter(self._loader), self._weighted_batches)

    def take_waited_s(self) -> float:
        """Seconds spent waiting for batches since the last call."""
        waited, self._waited_s = self._waited_s, 0.0
        return waited

    def state_dict(self) -> dict[str, Any]:
        """Empty: the data module saves the position (of every rank); Lightning asks for this one."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `state_dict`."""


def weighted(batches: Iterator[dict[str, Any]], step_batches: int) -> Iterator[dict[str, Any]]:
    """The batches with `label_weight`; all of a step are read before the first is handed out.

    Every rank has to take as many.
    """
    while step := list(islice(batches, step_batches)):
        counts = torch.stack([num_labels(batch["labels"]) for batch in step])
        ranks = gather_from_ranks(int(counts.sum()))
        weights = counts.float() * (len(step) * len(ranks) / max(1, sum(ranks)))
        for batch, weight in zip(step, weights, strict=True):
            yield batch | {"label_weight": weight}


def num_labels(labels: Tensor) -> Tensor:
    """How many of [batch, tokens] a loss counts: the first of a row has nothing before it."""
    return (labels[:, 1:] != IGNORED_LABEL).sum()


class WrinkleFreeDataModule(L.LightningDataModule):
    """Args: num_batches is the number of forward passes of the whole run on one rank (None: planned into a
    time), accumulate_steps that of one step, num_shares that of the data's shares (None: one a process),
    num_readers that of processes which have batches of their own (None: all; 1: all have the same), held_out
    what is kept out of them."""

    def __init__(
        self,
        sources: Sequence[SourceConfig],
        tokenizer: Any,
        sequence_length_tokens: int,
        batch_size: int,
        num_batches: int | None,
        seed: int,
        num_workers: int,
        resume_data: ChangedData | None = None,
        accumulate_steps: int = 1,
        num_shares: int | None = None,
        num_readers: int | None = None,
        held_out: HeldOut | None = None,
    ) -> None:
        super().__init__()
        self.sources = list(sources)
        self.tokenizer = tokenizer
        self.sequence_length_tokens = sequence_length_tokens
        self.batch_size = batch_size
        self.num_batches = num_batches
        self.seed = seed
        self.num_workers = num_workers
        self.resume_data = resume_data
        self.accumulate_steps = accumulate_steps
        self.num_shares = num_shares
        self.held_out = held_out
        self._num_readers = num_readers
        self.changes: list[dict[str, Any]] = []
        """How the run went on in data that had changed, oldest first: step, choice, sources."""
        self.begins_anew = False
        """Whether a resumed run reads changed data from its beginning."""
        self.loader: TimedLoader | None = None
        self._in_turn: InTurn | None = None
        self._restored: list[dict[str, Any]] | None = None
        """The states of all shares."""
        self._passes = 0
        """Of all processes, that the restored state comes after."""

    @property
    def num_readers(self) -> int:
        return self._num_readers or num_ranks()

    @property
    def _reader(self) -> int:
        """This process's number among them."""
        return rank() % self.num_readers

    def _of_readers(self, value: T) -> list[T]:
        """In order (called on every rank)."""
        return gather_from_ranks(value)[: self.num_readers]

    def train_dataloader(self) -> TimedLoader:
        restored = self._restored
        num_shares = len(restored) if restored is not None else self.num_shares or self.num_readers
        numbers = numbers_of(self._reader, self.num_readers, num_shares)
        loaders = [self._loader_of(number, num_shares) for number in numbers]
        if restored is not None:
            self._resume(loaders, [restored[number] for number in numbers])
        self._in_turn = InTurn(loaders, self._passes // self.num_readers)
        weighted_batches = self.accumulate_steps if self.is_supervised else None
        self.loader = TimedLoader(self._in_turn, self.num_batches, weighted_batches)
        return self.loader

    def _loader_of(self, number: int, num_shares: int) -> PackedLoader:
        return make_loader(
            self.sources,
            self.tokenizer,
            self.sequence_length_tokens,
            self.batch_size,
            seed=self.seed,
            rank=number,
            world_size=num_shares,
            num_workers=self.num_workers,
            held_out=self.held_out,
        )

    def state_dict(self) -> dict[str, Any]:
        """Positions of all shares (called on every rank)."""
        states, passes = self._restored, self._passes
        if self._in_turn is not None and self.loader is not None:
            place = self._in_turn.place(self.loader.last_place)
            states = in_order(self._of_readers(place.states))
            passes = place.num_passes * self.num_readers
        return {"ranks": states, "passes": passes, "changes": self.changes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises: RanksError for a number of processes that cannot divide the shares."""
        self._restored = state_dict["ranks"]
        numbers_of(self._reader, self.num_readers, len(state_dict["ranks"]))
        # Older states have a share a process, so the first one is next.
        self._passes = state_dict.get("passes", 0)
        self.changes = list(state_dict.get("changes", []))

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """New weights of sources, in force at a batch that is fixed by the one trained on last (called on
        every rank, between two steps, with the same weights)."""
        assert self._in_turn is not None
        self._in_turn.set_weights(weights)

    def figures(self) -> dict[str, Any]:
        """What the run's summary says of its data beyond the tokens (called on every rank)."""
        changes = {"data_changes": self.changes} if self.changes else {}
        return changes | ({"bad_records": self.bad_records()} if self.may_skip else {})

    @property
    def may_skip(self) -> bool:
        """Whether a source passes bad records over, or documents that are held out."""
        return self.held_out is not None or any(source.may_skip for source in self.sources)

    @property
    def is_supervised(self) -> bool:
        """Whether a source has records whose answers alone are learned."""
        return any(source.record_format is not None for source in self.sources)

    def bad_records(self) -> dict[str, dict[str, Any]]:
        """By source, over all ranks: how many were passed over, and where the first were."""
        assert self._in_turn is not None
        after = self.loader.last_place if self.loader else None
        totals = all_skipped(self._of_readers(self._in_turn.skipped(after)))
        return {
            name: {"records": total.records, "first": list(total.first)} for name, total in totals.items()
        }

    def _resume(self, loaders: list[PackedLoader], states: list[dict[str, Any]]) -> None:
        """Raises: RunError, DataError (other data, and no word how to go on; other settings)."""
        sources = changed_sources(states[0]["fingerprint"], loaders[0].state_dict()["fingerprint"])
        accept_changed = bool(sources)
        if sources:
            assert self.trainer is not None
            step = self.trainer.global_step
            choice = decide(self.resume_data, sources, f"the checkpoint of step {step}")
            self.changes.append({"step": step, "data": choice.value, "sources": sources})
            if choice is ChangedData.fresh:
                self.begins_anew = True
                return
        for loader, state in zip(loaders, states, strict=True):
            loader.load_state_dict(state, accept_changed=accept_changed)


def data_of(trainer: L.Trainer) -> WrinkleFreeDataModule:
    """The data that a trainer fits on."""
    data: Any = getattr(trainer, "datamodule", None)
    assert isinstance(data, WrinkleFreeDataModule)
    return data
