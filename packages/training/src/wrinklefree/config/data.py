"""`data`: text sources (data_handler's own options) and how they are read."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_handler.config import SourceConfig
from wrinklefree.config.ranges import number


@dataclass
class DataConfig:
    sources: list[SourceConfig] = field(default_factory=list)
    num_workers: int = number(0, least=0, most=1024)
    """Worker processes per rank that tokenize and pack; 0: in the training process."""
    num_shares: int | None = number(None, least=1, most=1_000_000)
    """Parts of the data that are read in turn, each with documents of its own; null: one per process. A run
    goes on with any number of processes that divides it, if a step has as many forward passes as before."""
