"""The file that packed models are kept in: a header and named sections, mapped where it lies.

Every byte is in packages/kernels/FORMATS.md. A file is written once, whole, and never changed. Opening checks
the header against its SHA-256 and the length of the file against the header; sections begin where the
header's sizes put them, so that none can lie outside, and none over another. Their own SHA-256 are checked by
`verify`, which reads all of them (1 s a GB).
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wf_formats.bounds import Bounds, is_number
from wf_formats.locks import try_lock

MAGIC = b"WFPACKED"
VERSION = 2
ALIGNMENT = 64
"""Of sections: kernels load whole vectors."""
MAX_HEADER_BYTES = 1 << 24
"""A hundred times what a model of 30 layers needs."""
_MAX_BYTES = 1 << 44
_PREAMBLE = struct.Struct("<8sIIQQ")
_DIGEST_BYTES = 32
_HEADER_AT = _PREAMBLE.size + _DIGEST_BYTES
assert _HEADER_AT == ALIGNMENT

Sections = Mapping[str, np.ndarray]


class PackedFileError(ValueError):
    """A file is damaged, cut short or something else than a packed model; the message says what is wrong."""


@dataclass(frozen=True)
class Section:
    """Where a section lies, and what it should hold."""

    offset: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class PackedFile:
    """An opened file; it is mapped, and locked against removal, as long as anything of it is in use."""

    path: Path
    facts: dict[str, Any]
    """What the writer gave."""
    sections: dict[str, Section]
    _map: mmap.mmap = field(repr=False)

    def array(self, name: str, dtype: str) -> np.ndarray:
        """A section as flat array of little-endian numbers, read only, where it lies in the file.

        Raises:
            PackedFileError: there is none, or its bytes are no whole number of them.
        """
        if (section := self.sections.get(name)) is None:
            raise PackedFileError(f"there is no section {name}")
        count, rest = divmod(section.num_bytes, np.dtype(dtype).itemsize)
        if rest:
            raise PackedFileError(f"section {name} has {section.num_bytes} bytes")
        return np.frombuffer(self._map, dtype, count, section.offset)

    def forget(self) -> None:
        """Takes what was read so far out of the process's memory; what is read again comes from the file."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def verify(self) -> None:
        """Raises PackedFileError for a section that is not what was written."""
        for name, section in self.sections.items():
            if hashlib.sha256(self.array(name, "u1").data).hexdigest() != section.sha256:
                raise PackedFileError(f"section {name} is not what was written")


def write(path: Path, facts: Mapping[str, Any], sections: Sections) -> None:
    """Writes a file, over what is there.

    Args:
        facts: anything that JSON can say.
        sections: contiguous arrays.

    Raises:
        OSError: it cannot be written.
        ValueError: facts have NaN or infinity in them, or make the header too long.
    """
    flat = {name: array.reshape(-1).view(np.uint8) for name, array in sections.items()}
    blank = _header(facts, {name: (data.size, "0" * 64) for name, data in flat.items()})
    digests = {}
    with path.open("wb") as file:
        end = len(blank)
        for name, data in flat.items():
            file.seek(offset := _aligned(end))
            file.write(data.data)
            end = offset + data.size
            digests[name] = (data.size, hashlib.sha256(data.data).hexdigest())
        header = _header(facts, digests)
        assert len(header) == len(blank)
        file.truncate(end)  # an empty section at the end writes nothing
        file.seek(0)
        file.write(header)


def open_file(path: Path) -> PackedFile:
    """Maps a file and checks its header.

    Raises:
        PackedFileError: it is no whole packed file of this version.
        BlockingIOError: somebody is about to remove it.
        RequestError: its file system has no locks.
        OSError: it cannot be read.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
        raise PackedFileError("it is no regular file")
    with path.open("rb") as file:
        # The mapping keeps a copy of the descriptor, and so the lock.
        if not try_lock(file, is_shared=True):
            raise BlockingIOError(errno.EWOULDBLOCK, "it is being removed", str(path))
        num_bytes = os.fstat(file.fileno()).st_size
        if num_bytes <= _HEADER_AT:
            raise PackedFileError(f"it has {num_bytes} bytes")
        mapped = mmap.mmap(file.fileno(), num_bytes, mmap.MAP_SHARED, mmap.PROT_READ)
    text = _checked_header(mapped)
    try:
        header = json.loads(text)
        listed, facts = header["sections"], header["facts"]
    except (ValueError, RecursionError, LookupError, TypeError) as error:
        raise PackedFileError(f"its header is {type(error).__name__}: {error}") from error
    sections, end = _sections(listed, _HEADER_AT + len(text))
    if end != num_bytes or not isinstance(facts, dict):
        raise PackedFileError(f"its sections end at byte {end}, it has {num_bytes}")
    return PackedFile(path, facts, sections, mapped)


def _header(facts: Mapping[str, Any], sections: Mapping[str, tuple[int, str]]) -> bytes:
    """Everything before the first section, for sections of (bytes, SHA-256)."""
    listed = [[name, num_bytes, sha256] for name, (num_bytes, sha256) in sections.items()]
    text = json.dumps({"facts": facts, "sections": listed}, separators=(",", ":"), allow_nan=False).encode()
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"the header has {len(text)} bytes; allowed are {MAX_HEADER_BYTES}")
    end = _HEADER_AT + len(text)
    for num_bytes, _ in sections.values():
        end = _aligned(end) + num_bytes
    preamble = _PREAMBLE.pack(MAGIC, VERSION, 0, len(text), end)
    return preamble + hashlib.sha256(preamble + text).digest() + text


def _checked_header(mapped: mmap.mmap) -> bytes:
    magic, version, zero, header_bytes, file_bytes = _PREAMBLE.unpack_from(mapped)
    if magic != MAGIC:
        raise PackedFileError(f"it begins with {magic!r}")
    if version != VERSION or zero:
        raise PackedFileError(f"it has the version {version}.{zero}, not {VERSION}.0")
    if header_bytes > MAX_HEADER_BYTES or file_bytes != len(mapped) or _HEADER_AT + header_bytes > file_bytes:
        raise PackedFileError(
            f"it states {file_bytes} bytes and a header of {header_bytes}; it has {len(mapped)}"
        )
    text = mapped[_HEADER_AT : _HEADER_AT + header_bytes]
    digest = mapped[_PREAMBLE.size : _HEADER_AT]
    if hashlib.sha256(mapped[: _PREAMBLE.size] + text).digest() != digest:
        raise PackedFileError("its header is not what was written")
    return text


def _sections(listed: Any, end: int) -> tuple[dict[str, Section], int]:
    """Sections one after the other, and the end of the last."""
    found: dict[str, Section] = {}
    if not isinstance(listed, list):
        raise PackedFileError("its header has no list of sections")
    for entry in listed:
        match entry:
            case [str(name), int(size), str(sha256)] if name not in found and is_number(
                size, Bounds(0, _MAX_BYTES), is_whole=True
            ):
                found[name] = Section(_aligned(end), size, sha256)
                end = _aligned(end) + size
            case _:
                raise PackedFileError(f"its header lists {str(entry)[:60]!r} as a section")
    return found, end


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
