"""Text sources, mixing, packing and resumable state. Start with `make_loader`."""

from data_handler.config import SourceConfig, SourceKind, TextUnit
from data_handler.errors import DataError
from data_handler.helpers import iter_documents, token_block
from data_handler.loader import PackedLoader, make_loader
from data_handler.mixing import MixedStream
from data_handler.packing import PackedDataset, pack
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
    "token_block",
]
