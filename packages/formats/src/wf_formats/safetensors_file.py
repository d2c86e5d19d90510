"""Safetensors files, mapped: a reader that trusts nothing, and one view over the files of a folder.

Format: u64 length of the header, the header (JSON: name -> dtype, shape, data_offsets [begin, end) into
the data; "__metadata__"), the data. As in the reference implementation the tensors cover the data
without holes or overlaps. Written here rather than taken from the `safetensors` package because its
numpy interface knows no bf16 and gives no pages back after use.

Source: the format section of the safetensors README.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from wf_formats.errors import LoadError
from wf_formats.file_names import WEIGHTS_FILE, WEIGHTS_INDEX_FILE
from wf_formats.json_file import read_json
from wf_formats.mapping import absence, map_file, release_pages

MAX_HEADER_BYTES = 1 << 24
"""A hundred times what a model of a thousand tensors needs."""
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "U8": "u1", "I8": "i1"} | {
    "I16": "<i2", "I32": "<i4", "I64": "<i8", "U16": "<u2", "U32": "<u4", "U64": "<u8", "BOOL": "u1",
    "F8_E4M3": "u1", "F8_E5M2": "u1", "F8_E8M0": "u1"
}  # fmt: skip
FLOATS = ("F64", "F32", "F16", "BF16")
_OTHER_WEIGHTS = (".bin", ".pth", ".pt", ".ckpt")
"""Endings of files with weights as pickle."""


@dataclass(frozen=True)
class StoredTensor:
    """Entry of a header."""

    shape: tuple[int, ...]
    dtype: str
    """As the format spells it: F32, BF16, U8, ..."""
    offset: int
    """Bytes from the start of the file."""
    num_bytes: int


@dataclass(frozen=True)
class SafetensorsFile:
    """An opened file."""

    path: Path
    tensors: dict[str, StoredTensor]
    _map: mmap.mmap = field(repr=False)

    def raw(self, name: str) -> np.ndarray:
        """The tensor in its own dtype (bf16 as uint16), read-only, still in the file."""
        tensor = self.tensors[name]
        data = np.frombuffer(self._map, np.uint8, tensor.num_bytes, tensor.offset)
        return data.view(_DTYPES[tensor.dtype]).reshape(tensor.shape)

    def rows(self, name: str, part: slice) -> np.ndarray:
        """fp32 values of a slice of rows (first dimension): a fresh array.

        Raises:
            LoadError: the tensor holds no floats.
        """
        dtype, stored = self.tensors[name].dtype, self.raw(name)[part]
        if dtype not in FLOATS:
            raise LoadError(f"{self.path}: {name} is {dtype}, floats were expected")
        if dtype == "BF16":
            return (stored.astype(np.uint32) << 16).view(np.float32)
        return stored.astype(np.float32)

    def release(self, name: str) -> None:
        """Lets go of the tensor's pages."""
        release_pages(self._map, self.tensors[name].offset, self.tensors[name].num_bytes)


def open_safetensors(path: Path) -> SafetensorsFile:
    """Maps a file and reads its header.

    Raises:
        LoadError: it is not a whole, well-formed safetensors file.
        OSError: it cannot be read.
    """
    mapped = map_file(path, LoadError)
    try:
        tensors = _header(mapped)
    except LoadError as error:
        raise LoadError(f"{path} is truncated or damaged: {error}") from error
    return SafetensorsFile(path, tensors, mapped)


def _header(mapped: mmap.mmap) -> dict[str, StoredTensor]:
    length = int.from_bytes(mapped[:8], "little")
    if len(mapped) < 8 or length > len(mapped) - 8:
        raise LoadError(f"no safetensors file or cut off: a header of {length} bytes in {len(mapped)}")
    if length > MAX_HEADER_BYTES:
        raise LoadError(f"a header of {length} bytes; allowed are {MAX_HEADER_BYTES}")
    try:
        header = json.loads(mapped[8 : 8 + length], object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise LoadError(f"the header is damaged: {error}") from error
    if not isinstance(header, dict):
        raise LoadError(f"the header is a JSON {type(header).__name__}, not an object")
    header.pop("__metadata__", None)
    tensors = {name: _tensor(name, entry, 8 + length) for name, entry in header.items()}
    end, before = 8 + length, "the header"
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].num_bytes)):
        if tensor.offset != end:
            raise LoadError(f"{name} begins at byte {tensor.offset}, {before} ends at {end}")
        end, before = end + tensor.num_bytes, name
    if end != len(mapped):
        raise LoadError(f"the tensors end at byte {end}, the file at {len(mapped)}: cut off or damaged")
    return tensors


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise LoadError(f"{twice!r} occurs twice")
    return found


def _tensor(name: str, entry: Any, data_start: int) -> StoredTensor:
    if not isinstance(entry, dict):
        raise LoadError(f"{name} is described by {entry!r:.60}")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise LoadError(f"{name} has the unknown dtype {dtype!r:.60}")
    if not _are_sizes(shape) or len(shape) > 8:
        raise LoadError(f"{name} has the shape {shape!r:.60}")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise LoadError(f"{name} has the data_offsets {offsets!r:.60}")
    num_bytes = offsets[1] - offsets[0]
    if num_bytes != math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize:
        raise LoadError(f"{name}, {dtype} of shape {shape}, has {num_bytes} bytes")
    return StoredTensor(tuple(shape), dtype, data_start + offsets[0], num_bytes)


def _are_sizes(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 62 for value in values)


class SafetensorsFolder:
    """The tensors of all weight files of a model folder."""

    def __init__(self, files: Mapping[str, SafetensorsFile]):
        self._files = files
        """Tensor name -> its file."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: file.tensors[name].shape for name, file in self._files.items()}

    @property
    def paths(self) -> dict[str, Path]:
        """Tensor name -> the file that it is in."""
        return {name: file.path for name, file in self._files.items()}

    def dtype(self, name: str) -> str:
        return self._files[name].tensors[name].dtype

    def raw(self, name: str) -> np.ndarray:
        return self._files[name].raw(name)

    def rows(self, name: str, part: slice) -> np.ndarray:
        return self._files[name].rows(name, part)

    def release(self, name: str) -> None:
        self._files[name].release(name)


def open_folder(folder: Path) -> SafetensorsFolder:
    """Opens model.safetensors, or the files that model.safetensors.index.json names.

    Raises:
        LoadError: a file is missing or damaged, the index disagrees with the files, or there are two sets
            of weights.
    """
    index = folder / WEIGHTS_INDEX_FILE
    if not (index.exists() or index.is_symlink()):
        file = open_safetensors(_existing(folder / WEIGHTS_FILE))
        return SafetensorsFolder(dict.fromkeys(file.tensors, file))
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(_is_file_name(name) for name in weight_map.values()):
        raise LoadError(f"{index}: weight_map does not map tensors to names of files in its folder")
    if (folder / WEIGHTS_FILE).is_file() and WEIGHTS_FILE not in weight_map.values():
        raise LoadError(
            f"{folder} holds two sets of weights, {WEIGHTS_FILE} and those of {index.name}: remove one"
        )
    opened = {name: open_safetensors(_existing(folder / name)) for name in sorted(set(weight_map.values()))}
    stored = {name: file for file in opened.values() for name in file.tensors}
    if (
        sum(len(file.tensors) for file in opened.values()) != len(stored)
        or stored.keys() != weight_map.keys()
    ):
        different = sorted(stored.keys() ^ weight_map.keys())[:3]
        raise LoadError(f"{index} does not list the tensors of its files, each once (differing: {different})")
    return SafetensorsFolder(stored)


def _is_file_name(name: Any) -> bool:
    return isinstance(name, str) and Path(name).name == name


def _existing(path: Path) -> Path:
    if path.is_file():
        return path
    other = [file for ending in _OTHER_WEIGHTS for file in sorted(path.parent.glob(f"*{ending}"))]
    if not other:
        raise LoadError(f"{path} {absence(path)}: {path.parent} has no weights or is incomplete")
    raise LoadError(
        f"{path} {absence(path)}; {other[0].name} is there, which may run code when it is read and is never "
        "opened: take a revision of the model with safetensors, or write one where you trust the file with "
        "transformers' save_pretrained"
    )
