"""Reads a GGUF file: keys, tensor table and tensor bytes.

gguf-py 0.19 has a reader, but it refuses files with a tensor type that it does not know, and Q2_0 is
one. Format (little endian): magic "GGUF", u32 version, u64 tensors, u64 keys; keys as (string, u32
type, value); tensor table as (string, u32 dimensions, u64 sizes fastest first, u32 type, u64 offset);
the data begins at the next multiple of general.alignment (default 32).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from wf_converter import blocks
from wf_converter.blocks import LAYOUTS
from wf_converter.errors import ExportError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_TERNARY = {layout.ggml_type: kind for kind, layout in LAYOUTS.items()}


@dataclass(frozen=True)
class GgufTensor:
    """Entry of the tensor table."""

    shape: tuple[int, ...]
    """Slowest dimension first, as in PyTorch."""
    ggml_type: int
    offset: int
    """Bytes from the start of the file."""

    @property
    def type_name(self) -> str:
        """Lower-case name of the type; "type<number>" if unknown here."""
        if self.ggml_type in _TERNARY:
            return str(_TERNARY[self.ggml_type])
        known = {kind.value: kind.name.lower() for kind in GGMLQuantizationType}
        return known.get(self.ggml_type, f"type{self.ggml_type}")

    @property
    def num_bytes(self) -> int:
        if self.ggml_type in _TERNARY:
            layout = _TERNARY[self.ggml_type].layout
            block, size = layout.block, layout.bytes
        else:
            block, size = GGML_QUANT_SIZES[GGMLQuantizationType(self.ggml_type)]
        return int(np.prod(self.shape)) // block * size


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file's keys and tensor table; data is read on demand."""

    path: Path
    keys: dict[str, Any]
    tensors: dict[str, GgufTensor]

    def values(self, name: str) -> np.ndarray:
        """The tensor as fp32, blocks decoded."""
        tensor = self.tensors[name]
        data = np.fromfile(self.path, np.uint8, tensor.num_bytes, offset=tensor.offset)
        if data.size < tensor.num_bytes:
            raise ExportError(f"{self.path}: the file ends inside tensor {name}")
        if tensor.ggml_type in _TERNARY:
            kind = _TERNARY[tensor.ggml_type]
            return blocks.decode(data, tensor.shape[-1], kind).reshape(tensor.shape)
        if tensor.ggml_type == GGMLQuantizationType.F32:
            return data.view(np.float32).reshape(tensor.shape)
        quantized = GGMLQuantizationType(tensor.ggml_type)
        return quants.dequantize(data.reshape(*tensor.shape[:-1], -1), quantized)


def read_gguf(path: Path | str) -> GgufFile:
    """Reads keys and tensor table.

    Raises:
        ExportError: no GGUF file of version 3.
    """
    path = Path(path)
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ExportError(f"{path} is no GGUF file")
        version, num_tensors, num_keys = struct.unpack("<IQQ", file.read(20))
        if version != 3:
            raise ExportError(f"{path} is GGUF version {version}; this reads version 3")
        keys = {_string(file): _value(file, _scalar(file, "I")) for _ in range(num_keys)}
        table = {_string(file): _table_entry(file) for _ in range(num_tensors)}
        alignment = keys.get("general.alignment", 32)
        start = -(-file.tell() // alignment) * alignment
    tensors = {name: GgufTensor(shape, kind, start + offset) for name, (shape, kind, offset) in table.items()}
    return GgufFile(path, keys, tensors)


def _table_entry(file: BinaryIO) -> tuple[tuple[int, ...], int, int]:
    sizes = [_scalar(file, "Q") for _ in range(_scalar(file, "I"))]
    return tuple(reversed(sizes)), _scalar(file, "I"), _scalar(file, "Q")


def _scalar(file: BinaryIO, code: str) -> Any:
    return struct.unpack(f"<{code}", file.read(struct.calcsize(code)))[0]


def _string(file: BinaryIO) -> str:
    return file.read(_scalar(file, "Q")).decode("utf-8", errors="replace")


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        return _scalar(file, _SCALARS[kind])
    item_kind, length = _scalar(file, "I"), _scalar(file, "Q")
    if item_kind in _SCALARS:
        code = _SCALARS[item_kind]
        return list(struct.unpack(f"<{length}{code}", file.read(length * struct.calcsize(code))))
    return [_value(file, item_kind) for _ in range(length)]
