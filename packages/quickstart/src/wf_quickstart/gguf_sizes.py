"""How the bytes of a GGUF file divide between embeddings and the rest.

Reads the header only (key-value pairs and tensor table of GGUF version 2 and 3, little endian); a
tensor's size is the distance to the next tensor's offset, so no table of block types is needed.
Source: the GGUF specification of ggml (docs/gguf.md).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from wf_deployer.errors import CommandError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_EMBEDDINGS = ("token_embd.weight", "output.weight")


@dataclass(frozen=True)
class GgufSizes:
    """Bytes of the file and of its embeddings (and head); numbers of elements of all tensors."""

    total: int
    embeddings: int
    num_weights: int
    num_embedding_weights: int


def gguf_sizes(path: Path) -> GgufSizes:
    """Raises: CommandError if it is no GGUF file of version 2 or 3."""
    with path.open("rb") as file:
        magic, version = file.read(4), _scalar(file, "I")
        if magic != b"GGUF" or version not in (2, 3):
            raise CommandError(f"{path} is no GGUF file of version 2 or 3")
        num_tensors, num_pairs = _scalar(file, "Q"), _scalar(file, "Q")
        values = dict(_pair(file) for _ in range(num_pairs))
        tensors = [_tensor(file) for _ in range(num_tensors)]
        alignment = values.get("general.alignment", 32)
        data_start = -(-file.tell() // alignment) * alignment
    total = path.stat().st_size
    offsets = [*sorted(offset for _, _, offset in tensors), total - data_start]
    size = {offset: offsets[i + 1] - offset for i, offset in enumerate(offsets[:-1])}
    return GgufSizes(
        total=total,
        embeddings=sum(size[offset] for name, _, offset in tensors if name in _EMBEDDINGS),
        num_weights=sum(count for _, count, _ in tensors),
        num_embedding_weights=sum(count for name, count, _ in tensors if name in _EMBEDDINGS),
    )


def _scalar(file: BinaryIO, code: str) -> Any:
    return struct.unpack("<" + code, file.read(struct.calcsize("<" + code)))[0]


def _string(file: BinaryIO) -> str:
    return file.read(_scalar(file, "Q")).decode("utf-8", errors="replace")


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind == _ARRAY:
        item, count = _scalar(file, "I"), _scalar(file, "Q")
        return [_value(file, item) for _ in range(count)]
    return _scalar(file, _SCALARS[kind])


def _pair(file: BinaryIO) -> tuple[str, Any]:
    key = _string(file)
    return key, _value(file, _scalar(file, "I"))


def _tensor(file: BinaryIO) -> tuple[str, int, int]:
    """(name, number of elements, offset in the data section)."""
    name, num_dims, count = _string(file), _scalar(file, "I"), 1
    for _ in range(num_dims):
        count *= _scalar(file, "Q")
    _scalar(file, "I")  # type
    return name, count, _scalar(file, "Q")
