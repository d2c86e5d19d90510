"""Parses the head of a GGUF file: keys and tensor table, trusting nothing in it.

Format (little endian): magic "GGUF", u32 version, u64 tensors, u64 keys; keys as (string, u32 type,
value); tensor table as (string, u32 dimensions, u64 sizes fastest first, u32 type, u64 offset into the
data); the data begins at the next multiple of `general.alignment` (32 if absent). A string is u64
length and UTF-8 bytes; an array is u32 item type, u64 count and the items.

Every count and length is compared with what is left of the file before anything is allocated or
repeated, so that parsing costs time and memory in proportion to the file, whatever its bytes say.

Source: docs/gguf.md of ggml. Big-endian files (version 3 may be) have no reader here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from wf_formats.errors import UserError
from wf_formats.gguf.types import TensorType, ValueType

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 20
MAX_NAME_BYTES = 64
"""Longest tensor name in the specification."""
MAX_KEY_BYTES = 65535
MAX_DIMENSIONS = 4
MAX_ARRAY_DEPTH = 4

_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_MIN_BYTES = {kind: struct.calcsize(code) for kind, code in _FORMATS.items()} | {_STRING: 8, _ARRAY: 12}
_LENGTH = struct.Struct("<Q")
_MIN_KEY_BYTES = 8 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 4 + 4 + 8


class GgufError(UserError, ValueError):
    """A GGUF file is damaged, hostile or of an unknown kind; the message names what and where."""


@dataclass(frozen=True)
class TableEntry:
    """One line of the tensor table, as the file has it."""

    shape: tuple[int, ...]
    """Slowest dimension first, as in PyTorch."""
    ggml_type: int
    offset: int
    """Bytes from the start of the data."""


@dataclass(frozen=True)
class Header:
    """Keys and tensor table."""

    version: int
    keys: dict[str, Any]
    kinds: dict[str, ValueType]
    """What each key's value is stored as."""
    table: dict[str, TableEntry]
    data_start: int
    """Bytes from the start of the file."""
    alignment: int


def parse_header(data: memoryview) -> Header:
    """Parses the head of a file of which `data` is the whole.

    Raises:
        GgufError: anything that a well-formed file of version 2 or 3 does not have.
    """
    if bytes(data[:4]) != MAGIC:
        raise GgufError(f"not a GGUF file: it begins with {bytes(data[:4])!r}, not {MAGIC!r}")
    cursor = _Cursor(data, 4)
    version = cursor.scalar("I", "the version")
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
        hint = " (a big-endian file)" if swapped else ""
        raise GgufError(f"GGUF version {version}{hint}; this reads little-endian versions 2 and 3")
    num_tensors = cursor.count(_MIN_TENSOR_BYTES, "the number of tensors")
    num_keys = cursor.count(_MIN_KEY_BYTES, "the number of keys")
    keys, kinds = _keys(cursor, num_keys)
    table = _table(cursor, num_tensors)
    alignment = keys.get("general.alignment", DEFAULT_ALIGNMENT)
    if not _is_alignment(alignment):
        raise GgufError(f"general.alignment is {alignment!r}, no power of two up to {MAX_ALIGNMENT}")
    start = -(-cursor.position // alignment) * alignment
    return Header(version, keys, kinds, table, min(start, len(data)), alignment)


def _is_alignment(value: Any) -> bool:
    is_int = isinstance(value, int) and not isinstance(value, bool)
    return is_int and 0 < value <= MAX_ALIGNMENT and value & (value - 1) == 0


class _Cursor:
    """A position in the file that cannot pass its end."""

    def __init__(self, data: memoryview, position: int):
        self.data, self.position = data, position

    def take(self, num_bytes: int, what: str) -> memoryview:
        left = len(self.data) - self.position
        if num_bytes > left:
            raise GgufError(
                f"the file ends inside {what}: {num_bytes} bytes wanted at byte {self.position}, {left} left"
            )
        self.position += num_bytes
        return self.data[self.position - num_bytes : self.position]

    def scalar(self, code: str, what: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize(code), what))[0]

    def count(self, min_bytes: int, what: str) -> int:
        """A u64 number of things that take at least `min_bytes` each."""
        count = self.scalar("Q", what)
        left = len(self.data) - self.position
        if count * min_bytes > left:
            raise GgufError(f"{what} at byte {self.position - 8} is {count}, too many for {left} bytes left")
        return int(count)

    def string(self, what: str, max_bytes: int | None = None) -> str:
        length, start = self.count(1, f"the length of {what}"), self.position
        if max_bytes is not None and length > max_bytes:
            raise GgufError(f"{what} at byte {start} has {length} bytes, allowed are {max_bytes}")
        try:
            return str(self.take(length, what), "utf-8")
        except UnicodeDecodeError as error:
            raise GgufError(f"{what} at byte {start} is not UTF-8: {error.reason}") from error


def _keys(cursor: _Cursor, count: int) -> tuple[dict[str, Any], dict[str, ValueType]]:
    keys: dict[str, Any] = {}
    kinds: dict[str, ValueType] = {}
    for index in range(count):
        name = cursor.string(f"the name of key {index}", MAX_KEY_BYTES)
        if name in keys:
            raise GgufError(f"key {name!r} occurs twice")
        kind = cursor.scalar("I", f"the type of key {name!r}")
        keys[name] = _value(cursor, kind, f"key {name!r}", 0)
        kinds[name] = ValueType(kind)  # known, or the value would have been refused
    return keys, kinds


def _value(cursor: _Cursor, kind: int, what: str, depth: int) -> Any:
    if kind == _STRING:
        return cursor.string(what)
    if kind == _ARRAY:
        return _array(cursor, what, depth + 1)
    if kind not in _FORMATS:
        raise GgufError(f"{what} has the unknown value type {kind}")
    value = cursor.scalar(_FORMATS[kind], what)
    return _booleans([value], what)[0] if kind == _BOOL else value


def _array(cursor: _Cursor, what: str, depth: int) -> list[Any]:
    if depth > MAX_ARRAY_DEPTH:
        raise GgufError(f"{what} nests arrays deeper than {MAX_ARRAY_DEPTH}")
    kind = cursor.scalar("I", f"the item type of {what}")
    if kind not in _MIN_BYTES:
        raise GgufError(f"{what} is an array of the unknown value type {kind}")
    count = cursor.count(_MIN_BYTES[kind], f"the length of {what}")
    if kind == _STRING:
        return _strings(cursor, count, what)
    if kind not in _FORMATS:
        return [_value(cursor, kind, what, depth) for _ in range(count)]
    values = list(struct.unpack(f"<{count}{_FORMATS[kind]}", cursor.take(count * _MIN_BYTES[kind], what)))
    return _booleans(values, what) if kind == _BOOL else values


def _strings(cursor: _Cursor, count: int, what: str) -> list[str]:
    """The strings of a vocabulary, 128,000 and more: five times as fast as one after the other by the cursor,
    which says what is wrong with one."""
    data, position, end, found = cursor.data, cursor.position, len(cursor.data), []
    try:
        for _ in range(count):
            start = position + _LENGTH.size
            stop = start + _LENGTH.unpack_from(data, position)[0]
            if stop > end:
                break
            found.append(str(data[start:stop], "utf-8"))
            position = stop
    except (struct.error, UnicodeDecodeError):
        pass
    cursor.position = position
    if len(found) < count:
        cursor.string(what)
        raise AssertionError(f"{what} was refused without a reason")
    return found


def _booleans(values: list[int], what: str) -> list[bool]:
    if wrong := set(values) - {0, 1}:
        raise GgufError(f"{what} is a boolean of value {min(wrong)}, not 0 or 1")
    return [value == 1 for value in values]


def _table(cursor: _Cursor, count: int) -> dict[str, TableEntry]:
    table: dict[str, TableEntry] = {}
    for index in range(count):
        name = cursor.string(f"the name of tensor {index}", MAX_NAME_BYTES)
        if name in table:
            raise GgufError(f"tensor {name!r} occurs twice")
        table[name] = _entry(cursor, f"tensor {name!r}")
    return table


def _entry(cursor: _Cursor, what: str) -> TableEntry:
    num_dims = cursor.scalar("I", f"the dimensions of {what}")
    if num_dims > MAX_DIMENSIONS:
        raise GgufError(f"{what} has {num_dims} dimensions, allowed are {MAX_DIMENSIONS}")
    shape = tuple(cursor.scalar("Q", f"the sizes of {what}") for _ in range(num_dims))[::-1]
    if 0 in shape:
        raise GgufError(f"{what} of shape {shape} is empty")
    kind, offset = cursor.scalar("I", f"the type of {what}"), cursor.scalar("Q", f"the offset of {what}")
    if kind in TensorType.__members__.values():
        block = TensorType(kind).block
        if (shape[-1] if shape else 1) % block:
            name = TensorType(kind).label
            raise GgufError(f"{what} of shape {shape} is {name}: its rows are not a multiple of {block}")
    return TableEntry(shape, kind, offset)
