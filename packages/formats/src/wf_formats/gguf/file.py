"""A GGUF file, mapped into memory: keys, tensor table, and tensors decoded on demand.

Opening reads the head only. A tensor's bytes come from the page cache when they are asked for and can
be handed back (`release`), so that a loader's resident memory does not grow by the file.

A file that is shortened *after* it was opened cannot be guarded against: reading the lost pages kills
the process (SIGBUS), as with every mapped file. Replace model files by renaming.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from wf_formats.gguf import blocks
from wf_formats.gguf.header import GgufError, Header, TableEntry, parse_header
from wf_formats.gguf.types import FOREIGN_TYPES, TL2, TL2_FILE_TYPE, TensorType, ValueType
from wf_formats.mapping import map_file, release_pages

_KNOWN_TYPES = {int(kind): kind for kind in TensorType}


@dataclass(frozen=True)
class GgufTensor:
    """Entry of the tensor table."""

    name: str
    shape: tuple[int, ...]
    """Slowest dimension first, as in PyTorch."""
    ggml_type: int
    offset: int
    """Bytes from the start of the file."""

    @property
    def type(self) -> TensorType:
        """Raises GgufError for a type that has no name here."""
        if self.ggml_type not in _KNOWN_TYPES:
            what = FOREIGN_TYPES.get(self.ggml_type)
            told = f"the unknown type {self.ggml_type}" if what is None else f"type {self.ggml_type}, {what}"
            raise GgufError(f"tensor {self.name!r} has {told}")
        return _KNOWN_TYPES[self.ggml_type]

    @property
    def type_name(self) -> str:
        """Lower-case name of the type; "type<number>" if unknown here."""
        known = _KNOWN_TYPES.get(self.ggml_type)
        return known.label if known is not None else f"type{self.ggml_type}"

    @property
    def num_weights(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.type.num_bytes(self.num_weights)


@dataclass(frozen=True)
class GgufFile:
    """An opened GGUF file."""

    path: Path
    version: int
    keys: dict[str, Any]
    kinds: dict[str, ValueType]
    """What each key's value is stored as."""
    tensors: dict[str, GgufTensor]
    _map: mmap.mmap = field(repr=False)

    @property
    def is_for_bitnetcpp(self) -> bool:
        """Whether it has a type that bitnet.cpp and the native engine read, and llama.cpp does not."""
        return any(tensor.ggml_type == TensorType.I2_S for tensor in self.tensors.values())

    def tensor(self, name: str) -> GgufTensor:
        """Raises GgufError where the file has no tensor of that name."""
        if name not in self.tensors:
            raise GgufError(f"{self.path}: tensor {name!r} is missing")
        return self.tensors[name]

    def data(self, name: str) -> np.ndarray:
        """Bytes of a tensor: uint8, read-only, still in the file."""
        tensor = self.tensor(name)
        return np.frombuffer(self._map, np.uint8, tensor.num_bytes, tensor.offset)

    def values(self, name: str) -> np.ndarray:
        """The tensor as fp32, blocks decoded.

        Raises:
            GgufError: no such tensor, or a type without decoder.
        """
        tensor = self.tensor(name)
        return blocks.values(self.data(name), tensor.type, tensor.shape)

    def release(self, name: str) -> None:
        """Lets go of the tensor's pages; they are read again when needed."""
        tensor = self.tensor(name)
        release_pages(self._map, tensor.offset, tensor.num_bytes)


def open_gguf(path: Path | str) -> GgufFile:
    """Maps a file and reads keys and tensor table.

    Raises:
        GgufError: not a whole, well-formed GGUF file of version 2 or 3 (little endian).
        OSError: it cannot be read.
    """
    path = Path(path)
    mapped = map_file(path, GgufError)
    try:
        with memoryview(mapped) as view:
            header = parse_header(view)
        tensors = _tensors(header, len(mapped))
    except GgufError as error:
        raise GgufError(f"{path}: {error}") from error
    return GgufFile(path, header.version, header.keys, header.kinds, tensors, mapped)


def _tensors(header: Header, file_bytes: int) -> dict[str, GgufTensor]:
    _check_tiles(header)
    tensors = {name: _checked(name, entry, header, file_bytes) for name, entry in header.table.items()}
    in_order = sorted(tensors.values(), key=lambda tensor: tensor.offset)
    for before, tensor in pairwise(in_order):
        if tensor.offset < _end(before):
            raise GgufError(f"tensor {tensor.name!r} overlaps {before.name!r} at byte {tensor.offset}")
    _check_gaps(header, in_order, file_bytes)
    return tensors


def _check_tiles(header: Header) -> None:
    """Raises GgufError for matrices of bitnet.cpp's TL2, which have the number of MXFP4 and another size."""
    is_bitnet = str(header.keys.get("general.architecture")).startswith("bitnet")
    if not (is_bitnet or header.keys.get("general.file_type") == TL2_FILE_TYPE):
        return
    for name, entry in header.table.items():
        if entry.ggml_type == TensorType.MXFP4:
            raise GgufError(f"tensor {name!r} has type {entry.ggml_type}, {TL2}")


def _end(tensor: GgufTensor) -> int:
    """The byte after a tensor; at least that of one of unknown type."""
    return tensor.offset + (tensor.num_bytes if tensor.ggml_type in _KNOWN_TYPES else 1)


def _check_gaps(header: Header, in_order: list[GgufTensor], file_bytes: int) -> None:
    """Tensors lie one after the other, with nothing but the padding of the alignment between them."""
    begins = [(f"tensor {tensor.name!r} begins", tensor.offset) for tensor in in_order]
    ends = [("the table", header.data_start)]
    ends += [(repr(t.name), _end(t) if t.ggml_type in _KNOWN_TYPES else file_bytes) for t in in_order]
    for (before, end), (what, begin) in zip(ends, [*begins, ("the file ends", file_bytes)], strict=True):
        if begin - end >= header.alignment:
            raise GgufError(
                f"{before} ends at byte {end} and {what} at {begin}: a type was changed, or data added"
            )


def _checked(name: str, entry: TableEntry, header: Header, file_bytes: int) -> GgufTensor:
    tensor = GgufTensor(name, entry.shape, entry.ggml_type, header.data_start + entry.offset)
    if entry.offset % header.alignment:
        raise GgufError(f"tensor {name!r}: offset {entry.offset} is not a multiple of {header.alignment}")
    num_bytes = tensor.num_bytes if entry.ggml_type in _KNOWN_TYPES else 1
    if tensor.offset + num_bytes > file_bytes:
        raise GgufError(
            f"the file ends inside tensor {name!r}: {num_bytes} bytes at byte {tensor.offset}, the file has "
            f"{file_bytes}"
        )
    return tensor
