"""The interface of a source: an ordered list of parts (files, texts, a hub data set) to read from."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from typing import Any

from data_handler.config import SourceConfig
from data_handler.readers import Reader


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
    def identity(self) -> Any:
        """What tells this data from other data (JSON); cheap, so names and sizes."""

    def digest(self) -> str:
        """Short hash of kind and identity: a state does not fit other data."""
        text = json.dumps([self.config.kind, self.identity()])
        return hashlib.sha256(text.encode()).hexdigest()[:16]
