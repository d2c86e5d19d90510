"""Which class reads a source, by its kind."""

from __future__ import annotations

from data_handler.config import SourceConfig, SourceKind
from data_handler.sources.base import Source
from data_handler.sources.packaged import PackagedSource
from data_handler.sources.path import PathSource


def open_source(config: SourceConfig, shard: int = 0, num_shards: int = 1) -> Source:
    """The source of a config; shard and num_shards matter to hub sources only (see hub.py)."""
    if config.kind is SourceKind.path:
        return PathSource(config)
    if config.kind is SourceKind.packaged:
        return PackagedSource(config)
    from data_handler.sources.hub import HubSource  # `datasets` takes seconds to import

    return HubSource(config, shard, num_shards)
