"""The loader: batches of a rank, made in worker processes, with exact state.

Every batch carries in `batch["state"]` the loader's state after that batch, so whoever fetches
batches ahead (worker processes, Lightning's prefetcher) does no harm: the trainer stores the state
of the batch that it trained on last.

Workers take turns: turn k of a rank belongs to worker k % num_workers. A resumed loader starts its
processes in that order, and a worker that has no data left says so each turn instead of stopping,
since DataLoader would then close the gap in an order that depends on timing.

New weights take effect at a turn that is fixed when `set_weights` is called: the first one that no
worker can have been asked for, `num_workers * prefetch_batches` after the batch handed out last
(so at once without workers). They are sent to the workers before the request for that turn is.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import multiprocessing
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from data_handler.config import SourceConfig
from data_handler.errors import DataError
from data_handler.held_out import HeldOut
from data_handler.identity import check_fingerprint, fingerprint, relocated, skipped_records
from data_handler.mixing import merge_weights
from data_handler.packing import PackedDataset, PackedStream
from data_handler.skipped import Skipped
from data_handler.stream import DEFAULT_BLOCK_DOCUMENTS

PackedBatch = dict[str, Any]
Schedule = list[list[Any]]  # [first turn, {source: weight}], ascending


def current_schedule(schedule: Schedule, turn: int) -> Schedule:
    """The entry in force at `turn` and those after it."""
    past = [entry for entry in schedule if entry[0] <= turn]
    return past[-1:] + [entry for entry in schedule if entry[0] > turn]


class _WorkerBatches(IterableDataset[Any]):
    """What runs in a worker process: (worker, batch or None at its end, state after it).

    An error of the data comes in the place of a batch: raised in a worker, it would arrive with the
    worker's traceback as its message.
    """

    def __init__(self, dataset: PackedDataset, state: dict[str, Any], channels: list[Any]) -> None:
        super().__init__()
        self._dataset = dataset
        self._state = state
        self._channels = channels

    def __iter__(self) -> Iterator[tuple[int, PackedBatch | DataError | None, dict[str, Any]]]:
        try:
            yield from self._batches()
        except DataError as error:
            yield -1, error, {}

    def _batches(self) -> Iterator[tuple[int, PackedBatch | None, dict[str, Any]]]:
        info = get_worker_info()
        process, num_workers = (info.id, info.num_workers) if info else (0, 1)
        turn = self._state["turns"] + process
        worker = turn % num_workers
        stream, weights_from = self._resume(worker, num_workers)
        batches = iter(stream)
        schedule: Schedule = self._state["weights"]
        while True:
            schedule = current_schedule([*schedule, *_drain(self._channels[process])], turn)
            first, weights = schedule[0]
            if first != weights_from:
                stream.mixture.set_weights(weights)
                weights_from = first
            batch = next(batches, None)
            state = {"weights_from": weights_from, "stream": stream.state_dict()}
            yield worker, batch and _as_arrays(self._dataset.finish(batch)), state
            turn += num_workers

    def _resume(self, worker: int, num_workers: int) -> tuple[PackedStream, int]:
        """The worker's stream where it stood, and since which turn its weights are in force."""
        stream = self._dataset.stream(worker, num_workers)
        state = self._state["workers"][worker]
        if state is None:
            return stream, 0
        stream.load_state_dict(state["stream"])
        return stream, state["weights_from"]


def _drain(channel: Any) -> Schedule:
    entries = []
    while not channel.empty():
        entries.append(channel.get())
    return entries


def _as_arrays(batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Tensors travel as shared memory with a handshake for each, which costs more than the bytes."""
    return {name: values.numpy() for name, values in batch.items()}


def _start_worker(process: int) -> None:
    """Worker processes are the parallelism; threads of the tokenizer on top would fight for cores."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _as_it_is(sample: Any) -> Any:
    return sample


class PackedLoader:
    """Iterates over batches: dicts of LongTensor [batch_size, seq_len_tokens] and `state`.

    `iter()` goes on after the batch handed out last, or starts again if the sources have ended.
    """

    def __init__(
        self,
        dataset: PackedDataset,
        num_workers: int = 0,
        prefetch_batches: int = 2,
        pin_memory: bool = False,
    ) -> None:
        self._dataset = dataset
        self._num_workers = num_workers
        self._prefetch_batches = prefetch_batches
        self._pin_memory = pin_memory
        self._fingerprint = fingerprint(dataset, num_workers)
        self._state = self._initial_state()
        self._pending: list[Any] | None = None  # weights that the workers have not been sent yet
        self._ended = False

    def _initial_state(self) -> dict[str, Any]:
        weights = {source.name: float(source.weight) for source in self._dataset.sources}
        return {
            "fingerprint": self._fingerprint,
            "turns": 0,
            "weights": [[0, weights]],
            "workers": [None] * max(1, self._num_workers),
        }

    @property
    def weights(self) -> dict[str, float]:
        """The weights set last, which may be in force only a few batches later."""
        return dict(self._state["weights"][-1][1])

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """New weights for the named sources (the others keep theirs), in force at a fixed batch.

        Raises:
            DataError: an unknown name, a negative weight, or all weights 0.
        """
        merged = merge_weights(self.weights, weights, list(self.weights))
        first = self._state["turns"] + self._num_workers * self._prefetch_batches
        earlier = [entry for entry in self._state["weights"] if entry[0] < first]
        self._pending = [first, merged]
        self._state = {**self._state, "weights": [*earlier, self._pending]}

    def state_dict(self, after: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """JSON-serialisable state with all weights set so far.

        Args:
            after: `batch["state"]` of the batch consumed last; None: the batch handed out last.
        """
        if after is None:
            return self._state
        known = dict([*after["weights"], *self._state["weights"]])
        return {**after, "weights": [list(entry) for entry in sorted(known.items())]}

    def skipped(self, after: Mapping[str, Any] | None = None) -> dict[str, Skipped]:
        """Bad records that this rank passed over, by source; `after` as for `state_dict`."""
        return skipped_records(self._state if after is None else after)

    def load_state_dict(self, state: Mapping[str, Any], *, accept_changed: bool = False) -> None:
        """Go on after the batch that the state belongs to.

        Args:
            accept_changed: also where the content of files has changed since, as long as they have the same
                names. The run goes on at the same line or row of the same file: exactly if no record was
                added or removed before it, else up to `block_documents` documents come twice or never.

        Raises:
            DataChangedError: the content or the files of a source have changed.
            DataError: the state is of other sources, tokenizer or settings; names what differs.
        """
        changed = check_fingerprint(state.get("fingerprint", {}), self._fingerprint, accept_changed)
        found = {**relocated(state, changed), "fingerprint": self._fingerprint}
        self._state = {key: found[key] for key in self._state}
        self._pending, self._ended = None, False

    def __iter__(self) -> Iterator[PackedBatch]:
        if self._ended:
            self._state, self._ended = self._initial_state(), False
        channels = self._channels()
        self._pending = None  # workers are started with all weights set so far
        results = iter(self._data_loader(channels))
        empty_turns = 0
        while empty_turns < len(channels):
            self._send_pending(channels)
            worker, batch, worker_state = next(results)
            if isinstance(batch, DataError):
                del results  # ends the workers now; the garbage collector, later, waits 5 s for each
                raise batch
            self._advance(worker, worker_state)
            if batch is None:
                empty_turns += 1
            else:
                empty_turns = 0
                yield {**self._as_tensors(batch), "state": self._state}
        self._ended = True

    def _as_tensors(self, arrays: PackedBatch) -> PackedBatch:
        tensors = {name: torch.from_numpy(values) for name, values in arrays.items()}
        if self._pin_memory:
            return {name: values.pin_memory() for name, values in tensors.items()}
        return tensors

    def _channels(self) -> list[Any]:
        if self._num_workers == 0:
            return [queue.SimpleQueue()]
        return [multiprocessing.SimpleQueue() for _ in range(self._num_workers)]

    def _send_pending(self, channels: list[Any]) -> None:
        if self._pending is not None:
            for channel in channels:
                channel.put(self._pending)
            self._pending = None

    def _data_loader(self, channels: list[Any]) -> DataLoader[Any]:
        return DataLoader(
            _WorkerBatches(self._dataset, self._state, channels),
            batch_size=None,
            num_workers=self._num_workers,
            prefetch_factor=self._prefetch_batches if self._num_workers else None,
            collate_fn=_as_it_is,
            worker_init_fn=_start_worker,
        )

    def _advance(self, worker: int, worker_state: dict[str, Any]) -> None:
        turns = self._state["turns"] + 1
        workers = list(self._state["workers"])
        workers[worker] = worker_state
        weights = current_schedule(self._state["weights"], turns)
        self._state = {**self._state, "turns": turns, "weights": weights, "workers": workers}


def make_loader(
    sources: Sequence[SourceConfig],
    tokenizer: Any,
    seq_len_tokens: int,
    batch_size: int,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    *,
    block_documents: int = DEFAULT_BLOCK_DOCUMENTS,
    document_ids: bool = False,
    prefetch_batches: int = 2,
    pin_memory: bool = False,
    held_out: HeldOut | None = None,
) -> PackedLoader:
    """A loader of packed batches of one rank.

    Args:
        seq_len_tokens: tokens of a sequence.
        batch_size: sequences of a batch of this rank.
        num_workers: processes; 0 makes the batches in this process. The order of the batches
            depends on it (each worker has its own documents), and a state fits the same number only.
        block_documents: documents of a source that are shuffled together; 1: no shuffling.
        document_ids: batches also have document_ids (number within the sequence, -1: filling).
        prefetch_batches: batches that each worker makes ahead.
        held_out: documents that no batch may have; they end the run or are passed over, as it says.

    Raises:
        DataRequestError: settings or locations that do not fit.
        DataError: files that cannot be read.
    """
    dataset = PackedDataset(
        sources,
        tokenizer,
        seq_len_tokens,
        batch_size,
        seed=seed,
        rank=rank,
        world_size=world_size,
        block_documents=block_documents,
        document_ids=document_ids,
        held_out=held_out,
    )
    return PackedLoader(dataset, num_workers, prefetch_batches, pin_memory)
