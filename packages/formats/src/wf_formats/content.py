"""What tells a file's or a model folder's content from another's, without its name, place or time.

A file up to `WHOLE_BYTES` counts whole. Of a larger one its size, its beginning (where safetensors and GGUF
have their index), its end and blocks evenly between count: other weights differ everywhere and any line put
in or taken out changes the size, while a few bytes changed in place may be missed (what vouches for each
byte is a manifest). So copying a file or touching it changes nothing. Cost: 16 MB read of a file, at most.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from wf_formats.packaged import ModelSource

WHOLE_BYTES = 16 << 20
_EDGE_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 16
_NUM_BLOCKS = 128
_DIGITS = 16
_MODEL_SUFFIXES = (".json", ".safetensors", ".bin", ".gguf", ".model", ".jinja", ".txt")


def file_digest(path: Path) -> str:
    """16 hexadecimal digits. Raises: OSError."""
    size_bytes = path.stat().st_size
    digest = hashlib.sha256(str(size_bytes).encode())
    with path.open("rb") as file:
        for offset, num_bytes in _spans(size_bytes):
            _add(digest, file, offset, num_bytes)
    return digest.hexdigest()[:_DIGITS]


def folder_digest(folder: Path) -> str:
    """Of the files that make a model (weights, configuration, tokenizer), with their names."""
    return joined(f"{path.name} {file_digest(path)}" for path in model_files(folder))


def model_digest(source: ModelSource | None, name: str | None) -> str | None:
    """Of the folder that a configuration names as a model; None: it names none, or none that is there."""
    if source is not ModelSource.path or not name or not Path(name).is_dir():
        return None
    return folder_digest(Path(name))


def model_files(path: Path) -> list[Path]:
    """A model's own file; of a folder those with weights, configuration and tokenizer, by name."""
    if not path.is_dir():
        return [path]
    files = (file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith("."))
    return [file for file in files if file.suffix in _MODEL_SUFFIXES]


def joined(parts: Iterable[str]) -> str:
    """One digest of several."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:_DIGITS]


def _spans(size_bytes: int) -> Iterator[tuple[int, int]]:
    """Offsets and lengths of what counts."""
    if size_bytes <= WHOLE_BYTES:
        yield 0, size_bytes
        return
    yield 0, _EDGE_BYTES
    step = (size_bytes - 2 * _EDGE_BYTES) // _NUM_BLOCKS
    for number in range(_NUM_BLOCKS):
        yield _EDGE_BYTES + number * step, _BLOCK_BYTES
    yield size_bytes - _EDGE_BYTES, _EDGE_BYTES


def _add(digest: hashlib._Hash, file: IO[bytes], offset: int, num_bytes: int) -> None:
    file.seek(offset)
    left = num_bytes
    while left > 0 and (data := file.read(min(left, _EDGE_BYTES))):
        digest.update(data)
        left -= len(data)
