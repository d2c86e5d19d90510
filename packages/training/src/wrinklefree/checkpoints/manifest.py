"""manifest.json: size and SHA-256 of every file of a checkpoint folder.

A folder that was cut short, changed, lost or gained a file is refused by the name of that file. Cost: one
read of the folder (SHA-256 runs at about 1.5 GB/s here).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from wf_formats.digests import file_sha256
from wf_formats.errors import UserError
from wf_formats.run_files import FIGURES_FILE, MANIFEST_FILE

_UNLISTED = (MANIFEST_FILE, FIGURES_FILE)
_SHA256 = re.compile("[0-9a-f]{64}")


_MAX_NAME_BYTES = 255
"""Of file systems; ours are far shorter."""


class DamagedCheckpointError(UserError, ValueError):
    """A checkpoint is not what was written; the message names folder, file and finding."""


def describe(path: Path) -> dict[str, Any]:
    """A file's entry."""
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def _files(folder: Path) -> set[str]:
    """Names of the files that a manifest lists; hidden ones (of file systems and desktops) are no one's."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    return {path.as_posix() for path in found if path.as_posix() not in _UNLISTED and not _is_hidden(path)}


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def write_manifest(folder: Path, described: Mapping[str, dict[str, Any]] = MappingProxyType({})) -> None:
    """Describe all files that are in the folder now, and those that other processes have described."""
    names = sorted(_files(folder) | described.keys())
    entries = {name: described.get(name) or describe(folder / name) for name in names}
    (folder / MANIFEST_FILE).write_text(json.dumps({"files": entries}, indent=2) + "\n")


def verify_manifest(
    folder: Path, needed: Collection[str] = (), number: int = 0, num_readers: int = 1
) -> None:
    """Every file is listed, and every listed one is there as it was written.

    Args:
        needed: names that the folder has to have.
        number: of this reader, where several read a share of the contents each.
    Raises: DamagedCheckpointError naming the first file that is missing, differs or is not listed.
    """
    entries = _read(folder)
    if missing := [name for name in needed if name not in entries]:
        raise DamagedCheckpointError(f"{folder} is damaged: {MANIFEST_FILE} does not list {missing[0]}")
    for place, (name, expected) in enumerate(entries.items()):
        _verify(folder, name, expected, with_contents=place % num_readers == number)
    if foreign := sorted(_files(folder) - entries.keys()):
        raise DamagedCheckpointError(
            f"{folder} is damaged: {foreign[0]} is not listed in {MANIFEST_FILE}; remove it if it is yours"
        )


def _verify(folder: Path, name: str, expected: dict[str, Any], *, with_contents: bool) -> None:
    path = folder / name
    if not path.is_file():
        raise DamagedCheckpointError(f"{folder} is damaged: {name} is missing")
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise DamagedCheckpointError(
            f"{folder} is damaged: {name} has {size} bytes instead of {expected['bytes']}"
        )
    if with_contents and describe(path)["sha256"] != expected["sha256"]:
        raise DamagedCheckpointError(
            f"{folder} is damaged: the contents of {name} have changed (SHA-256 differs)"
        )


def manifest_digest(folder: Path) -> str:
    """SHA-256 of the manifest: names the exact contents of a folder."""
    return file_sha256(folder / MANIFEST_FILE)


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    """The entries, each checked for its shape."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise DamagedCheckpointError(f"{folder} is damaged: {MANIFEST_FILE} is missing")
    try:
        contents = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpointError(f"{folder} is damaged: {MANIFEST_FILE}: {error}") from error
    files = contents.get("files") if isinstance(contents, dict) else None
    if not isinstance(files, dict) or not files:
        raise DamagedCheckpointError(f"{folder} is damaged: {MANIFEST_FILE}: it lists no files")
    for name, entry in files.items():
        if not (_is_name(name) and _is_description(entry)):
            raise DamagedCheckpointError(
                f"{folder} is damaged: {MANIFEST_FILE}: {name!r:.80} is no entry of a file"
            )
    return files


def _is_name(name: str) -> bool:
    """Whether it is a file inside the folder, as `write_manifest` spells it."""
    path = PurePosixPath(name)
    is_inside = bool(path.parts) and not path.is_absolute() and ".." not in path.parts
    if len(name.encode(errors="replace")) > _MAX_NAME_BYTES:
        return False
    return is_inside and path.as_posix() == name and "\0" not in name and name not in _UNLISTED


def _is_description(entry: Any) -> bool:
    if not isinstance(entry, dict) or entry.keys() != {"bytes", "sha256"}:
        return False
    size, digest = entry["bytes"], entry["sha256"]
    return type(size) is int and size >= 0 and isinstance(digest, str) and bool(_SHA256.fullmatch(digest))
