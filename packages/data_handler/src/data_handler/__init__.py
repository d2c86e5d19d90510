"""Text sources, mixing, packing and resumable state. Start with `make_loader`.

What a source is (config.py) is there without PyTorch, so that a configuration can be read and checked
quickly; all other names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from data_handler.config import OnBadRecord, OnTooLong, SourceConfig, SourceKind, TextUnit
from data_handler.errors import (
    BadRecordError,
    DataChangedError,
    DataError,
    DataRequestError,
    HeldOutError,
    TooLongError,
)
from wf_formats.lazy import lazy_names

if TYPE_CHECKING:
    from data_handler.held_out import HeldOut, PlacedText, text_hash
    from data_handler.helpers import iter_documents, iter_placed_documents, token_block
    from data_handler.loader import PackedLoader, make_loader
    from data_handler.mixing import MixedStream
    from data_handler.packing import PackedDataset, Piece, pack
    from data_handler.readers import read_documents
    from data_handler.stream import TextStream

__all__ = [
    "BadRecordError",
    "DataChangedError",
    "DataError",
    "DataRequestError",
    "HeldOut",
    "HeldOutError",
    "MixedStream",
    "OnBadRecord",
    "OnTooLong",
    "PackedDataset",
    "PackedLoader",
    "Piece",
    "PlacedText",
    "SourceConfig",
    "SourceKind",
    "TextStream",
    "TextUnit",
    "TooLongError",
    "iter_documents",
    "iter_placed_documents",
    "make_loader",
    "pack",
    "read_documents",
    "text_hash",
    "token_block",
]

__getattr__ = lazy_names(
    __name__,
    {
        "HeldOut": "held_out",
        "MixedStream": "mixing",
        "PackedDataset": "packing",
        "PackedLoader": "loader",
        "Piece": "packing",
        "PlacedText": "held_out",
        "TextStream": "stream",
        "iter_documents": "helpers",
        "iter_placed_documents": "helpers",
        "make_loader": "loader",
        "pack": "packing",
        "read_documents": "readers",
        "text_hash": "held_out",
        "token_block": "helpers",
    },
)
