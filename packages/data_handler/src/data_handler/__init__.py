"""Text sources, mixing, packing and resumable state. Start with `make_loader`.

What a source is (config.py) is there without PyTorch, so that a configuration can be read and checked
quickly; all other names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from data_handler.config import SourceConfig, SourceKind, TextUnit
from data_handler.errors import DataError

if TYPE_CHECKING:
    from data_handler.helpers import iter_documents, token_block
    from data_handler.loader import PackedLoader, make_loader
    from data_handler.mixing import MixedStream
    from data_handler.packing import PackedDataset, pack
    from data_handler.readers import read_documents
    from data_handler.stream import TextStream

__all__ = [
    "DataError",
    "MixedStream",
    "PackedDataset",
    "PackedLoader",
    "SourceConfig",
    "SourceKind",
    "TextStream",
    "TextUnit",
    "iter_documents",
    "make_loader",
    "pack",
    "read_documents",
    "token_block",
]

_HOMES = {
    "MixedStream": "mixing",
    "PackedDataset": "packing",
    "PackedLoader": "loader",
    "TextStream": "stream",
    "iter_documents": "helpers",
    "make_loader": "loader",
    "pack": "packing",
    "read_documents": "readers",
    "token_block": "helpers",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"data_handler.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
