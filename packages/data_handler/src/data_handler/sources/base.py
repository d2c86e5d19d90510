"""The interface of a source: an ordered list of parts (files, texts, a hub data set) to read from."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from typing import Any

from data_handler.config import SourceConfig
from data_handler.records import Reader


class Source(ABC):
    """Parts in a fixed order.

    `presharded`: the parts hold the documents of this shard only.
    """

    presharded = False

    def __init__(self, config: SourceConfig) -> None:
        self.config = config

    @property
    @abstractmethod
    def num_parts(self) -> int: ...

    @abstractmethod
    def open(self, part: int, mark: Any) -> Reader: ...

    @abstractmethod
    def names(self) -> Any:
        """The parts by name, and the settings that say what a document is (JSON).

        Where they are equal a position means the same place, though the content may have changed.
        """

    @abstractmethod
    def content(self) -> Any:
        """What tells the content of the parts from another (JSON); cheap: sizes and samples."""

    def digest(self) -> str:
        """`names.content`, a short hash of each: a state fits the same of both only."""
        return f"{_hash([self.config.kind, self.names()])}.{_hash(self.content())}"


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]


def have_same_names(left: str, right: str) -> bool:
    """Whether two digests are of parts of the same names."""
    return left.partition(".")[0] == right.partition(".")[0]
