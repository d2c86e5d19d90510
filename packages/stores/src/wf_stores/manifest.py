"""manifest.json: name, size and SHA-256 of every file of an upload, and its CRC32C where the store keeps one.

The same files give the same bytes, whose SHA-256 (the digest) therefore names the contents. Cost: one read of
the folder; SHA-256 runs at about 1.5 GB/s a core here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from wf_formats.errors import RequestError
from wf_formats.printable import printable
from wf_stores.errors import DamagedUploadError
from wf_stores.location import MAX_KEY_BYTES, unfit
from wf_stores.parallel import in_parallel, nothing
from wf_stores.store import PART_BYTES, Advance

MAX_BYTES = 64 << 20
"""Of a manifest: half a million files."""
_FORMAT = 1
_SHA256 = re.compile("[0-9a-f]{64}")
_CRC32C = re.compile("[A-Za-z0-9+/]{6}==")


@dataclass(frozen=True)
class Entry:
    """A file. crc32c: base64, as GCS has it; None where the store keeps none."""

    num_bytes: int
    sha256: str
    crc32c: str | None = None


@dataclass(frozen=True)
class Manifest:
    """files: by name, with `/` between folders."""

    files: Mapping[str, Entry]

    @property
    def num_bytes(self) -> int:
        return sum(entry.num_bytes for entry in self.files.values())

    @cached_property
    def data(self) -> bytes:
        """As it is stored."""
        files = {name: _as_json(self.files[name]) for name in sorted(self.files)}
        return (json.dumps({"format": _FORMAT, "files": files}, indent=1) + "\n").encode()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `data`, 64 hexadecimal digits."""
        return hashlib.sha256(self.data).hexdigest()


def files_of(source: Path) -> dict[str, Path]:
    """Files of a folder by name, sorted, links to files among them; or a single file under its own name.

    Raises:
        RequestError: nothing there; a file that is none (a pipe, a link to a folder or to nothing), or whose
            name some store cannot have.
    """
    if source.is_dir():
        found = {path.relative_to(source).as_posix(): path for path in _walk(source)}
    elif source.exists():
        found = {source.name: source}
    else:
        raise RequestError(f"there is no folder or file {printable(str(source))}; check the path")
    for name, path in found.items():
        _check_file(name, path)
    if not found:
        raise RequestError(f"{printable(str(source))} holds no files; give a folder that does")
    return found


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders.sort()
        links = [name for name in folders if Path(parent, name).is_symlink()]
        yield from (Path(parent, name) for name in sorted(names + links))


def _check_file(name: str, path: Path) -> None:
    shown = printable(str(path))
    if reason := unfit(name):
        raise RequestError(f"{shown} {reason}: rename it")
    if len(name.encode()) > MAX_KEY_BYTES // 2:
        raise RequestError(f"{shown}: its name has more than {MAX_KEY_BYTES // 2} bytes; rename it")
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, OSError) as error:
        if isinstance(error, PermissionError):
            raise
        raise RequestError(f"{shown} is a link to nothing; remove it") from error
    if not stat.S_ISREG(mode):
        what = "a link to a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise RequestError(f"{shown} is {what}; move it away")


def describe(files: Mapping[str, Path], with_crc32c: bool, advance: Advance = nothing) -> Manifest:
    """Sizes and hashes of files, read by several threads. Raises: OSError."""
    entries: dict[str, Entry] = {}

    def one(name: str, advance: Advance) -> None:
        entries[name] = entry_of(files[name], with_crc32c, advance)

    in_parallel(one, files, advance)
    return Manifest({name: entries[name] for name in files})


def entry_of(path: Path, with_crc32c: bool, advance: Advance = nothing) -> Entry:
    """Raises: OSError."""
    sha256, crc32c, num_bytes = hashlib.sha256(), None, 0
    if with_crc32c:
        from wf_stores.crc32c import Crc32c

        crc32c = Crc32c()
    with path.open("rb") as file:
        while data := file.read(PART_BYTES):
            sha256.update(data)
            if crc32c is not None:
                crc32c.update(data)
            num_bytes += len(data)
            advance(len(data))
    return Entry(num_bytes, sha256.hexdigest(), None if crc32c is None else crc32c.shown())


def parse_manifest(data: bytes, shown: str) -> Manifest:
    """The manifest that `data` is.

    Raises:
        DamagedUploadError: it is none, or would write outside of its folder.
    """
    try:
        contents = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedUploadError(f"{shown} is no manifest: it is no JSON") from error
    files = contents.get("files") if isinstance(contents, dict) else None
    if not isinstance(files, dict) or not files:
        raise DamagedUploadError(f"{shown} is no manifest: it lists no files")
    if contents.get("format") != _FORMAT:
        raise DamagedUploadError(
            f"{shown} has format {contents.get('format')!r:.20}, which a newer version reads"
        )
    for name, entry in files.items():
        if unfit(name) is not None or not _is_entry(entry):
            raise DamagedUploadError(
                f"{shown} is no manifest: {printable(repr(name), 80)} is no file's entry"
            )
        if any(parent in files for parent in _parents(name)):
            raise DamagedUploadError(f"{shown} is no manifest: {printable(name, 80)} is below another file")
    return Manifest(
        {name: Entry(entry["bytes"], entry["sha256"], entry.get("crc32c")) for name, entry in files.items()}
    )


def _parents(name: str) -> Iterator[str]:
    parts = name.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts)))


def _as_json(entry: Entry) -> dict[str, Any]:
    values = {"bytes": entry.num_bytes, "sha256": entry.sha256}
    return values if entry.crc32c is None else values | {"crc32c": entry.crc32c}


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not {"bytes", "sha256"} <= entry.keys() <= {
        "bytes",
        "sha256",
        "crc32c",
    }:
        return False
    size, digest, crc32c = entry["bytes"], entry["sha256"], entry.get("crc32c", "AAAAAA==")
    if type(size) is not int or size < 0 or not isinstance(digest, str) or not isinstance(crc32c, str):
        return False
    return bool(_SHA256.fullmatch(digest) and _CRC32C.fullmatch(crc32c))
