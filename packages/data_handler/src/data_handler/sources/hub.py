"""Hugging Face data sets, streamed.

`datasets` itself divides the data set over the shards (whole files where their number allows,
else every n-th example, which then is downloaded n times), and its `state_dict` goes back to a
position without reading what lies before it where the file format allows.

`IterableDataset.__iter__` would divide the data once more in a DataLoader worker; `.iter()` does
not, and workers are already counted in our shards.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import datasets
import datasets.exceptions
import pyarrow as pa
from datasets.distributed import split_dataset_by_node

from data_handler.config import SourceConfig
from data_handler.describing import one_line
from data_handler.errors import DataError
from data_handler.records import Reader, Rules, field_text
from data_handler.sources.base import Source

_READ_ERRORS = (OSError, ValueError, KeyError, pa.ArrowException, datasets.exceptions.DatasetsError)
"""What a data set raises when it is opened or read: a network, its files, what they hold."""


class HubReader(Reader):
    def __init__(self, dataset: datasets.IterableDataset, mark: Any, config: SourceConfig) -> None:
        self._dataset = dataset
        self._config = config
        self._rules = Rules.of(config)
        self._examples: int
        self._examples, state = mark or (0, None)
        if state is not None:
            dataset.load_state_dict(state)

    def mark(self) -> list[Any]:
        return [self._examples, self._dataset.state_dict()]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            for example in self._dataset.iter(batch_size=1):
                self._examples += 1
                yield {column: values[0] for column, values in example.items()}
        except _READ_ERRORS as error:
            raise DataError(
                f"{self._config.location} [{self._config.split}]: cannot be read after example "
                f"{self._examples} ({one_line(error)}); check the data set and the network"
            ) from error

    def text(self, record: dict[str, Any]) -> str:
        return field_text(record, self._config.text_column, self._rules, self.place)

    def fields(self, record: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        return self.place(), record

    def place(self, record: Any = None) -> str:
        return f"{self._config.location} [{self._config.split}], example {self._examples}"


class HubSource(Source):
    """One part: this shard of the data set."""

    presharded = True

    def __init__(self, config: SourceConfig, shard: int, num_shards: int) -> None:
        super().__init__(config)
        self._shard = shard
        self._num_shards = num_shards

    @property
    def num_parts(self) -> int:
        return 1

    def open(self, part: int, mark: Any) -> Reader:
        config = self.config
        try:
            dataset = datasets.load_dataset(
                config.location, name=config.subset, split=config.split, streaming=True
            )
        except _READ_ERRORS as error:
            raise DataError(
                f"source {config.name!r}: cannot open the data set {config.location!r} ({one_line(error)}); "
                "check location, subset, split and the network"
            ) from error
        dataset = split_dataset_by_node(dataset, rank=self._shard, world_size=self._num_shards)
        return HubReader(dataset, mark, config)

    def names(self) -> Any:
        config = self.config
        return [config.location, config.subset, config.split, *config.contents]

    def content(self) -> Any:
        """Unknown without reading: the data set's own revision decides."""
        return None
