"""A folder to a store: the manifest; its files, several at once; last COMPLETE, exclusively.

A reader looks for COMPLETE, so an upload that was cut short, however, is none; its manifest says that what
lies there is ours. Repeated it goes on: what the store holds under this digest is compared by the checksum
that the store keeps and not sent again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wf_stores.errors import ChangedFileError, StoreError
from wf_stores.layout import check_name, data_prefix, file_key, manifest_key
from wf_stores.manifest import Manifest, describe, files_of
from wf_stores.parallel import in_parallel, nothing
from wf_stores.records import another, complete_digest, create_once, mark_complete, unmark
from wf_stores.store import Advance, Store, Stored


@dataclass(frozen=True)
class Uploaded:
    """num_bytes: of all files; sent_bytes: of those that were not there."""

    digest: str
    num_files: int
    num_bytes: int
    sent_bytes: int


def upload_folder(folder: Path | str, store: Store, name: str, advance: Advance = nothing) -> Uploaded:
    """Stores a folder's files, or a single file, as the complete upload `name`.

    Files go by name and contents alone: no empty folders, times or permissions. Damage to an upload that is
    complete is mended.

    Args:
        advance: called with the bytes of each part that is there now.

    Raises:
        RequestError: nothing to upload, or a file that cannot be.
        AnotherUploadError: `name` is complete with other contents; also where another writer was faster.
        StoreError: the store failed, or a file was changed meanwhile; repeated it goes on.
        OSError: of reading.
    """
    check_name(name)
    files = files_of(Path(folder))
    before = _states(files)
    manifest = describe(files, store.keeps_crc32c)
    if complete_digest(store, name) not in (None, manifest.digest):
        raise another(store, name, manifest.digest)
    key = manifest_key(name, manifest.digest)
    if not create_once(store, key, manifest.data):
        store.delete(key)  # damaged: under its digest nothing else can be meant
        create_once(store, key, manifest.data)
    sent_bytes = _send(files, manifest, store, name, advance)
    if (changed := _states(files)) != before:
        raise ChangedFileError(next(files[file] for file in files if changed[file] != before[file]))
    mark_complete(store, name, manifest.digest)
    _check_all_there(manifest, store, name)
    return Uploaded(manifest.digest, len(files), manifest.num_bytes, sent_bytes)


def _send(files: Mapping[str, Path], manifest: Manifest, store: Store, name: str, advance: Advance) -> int:
    """Returns: bytes of the files that were sent."""
    there = {stored.key: stored for stored in store.objects(data_prefix(name, manifest.digest))}
    sent: list[int] = []

    def one(file: str, advance: Advance) -> None:
        key, size = file_key(name, manifest.digest, file), manifest.files[file].num_bytes
        if _holds(store, there.get(key), files[file], size):
            advance(size)
            return
        store.put_file(key, files[file], advance)
        sent.append(size)

    largest_first = sorted(files, key=lambda file: -manifest.files[file].num_bytes)
    in_parallel(one, largest_first, advance)
    return sum(sent)


def _check_all_there(manifest: Manifest, store: Store, name: str) -> None:
    """After COMPLETE: who removes data looks for it afterwards (inventory.py), so one of both sees the other.

    Raises: StoreError where somebody has removed some of it meanwhile; COMPLETE goes too.
    """
    digest = manifest.digest
    there = {stored.key: stored.num_bytes for stored in store.objects(data_prefix(name, digest))}
    wanted = {file_key(name, digest, file): entry.num_bytes for file, entry in manifest.files.items()}
    wanted[manifest_key(name, digest)] = len(manifest.data)
    if missing := [key for key, size in wanted.items() if there.get(key) != size]:
        unmark(store, name, digest)
        raise StoreError(
            f"{store.url}/{missing[0]} was removed while {name} was uploaded; run the same command again"
        )


def _holds(store: Store, stored: Stored | None, path: Path, size: int) -> bool:
    return stored is not None and stored.num_bytes == size and store.holds(stored, path)


def _states(files: Mapping[str, Path]) -> dict[str, tuple[int, int, int]]:
    """What changes when a file does."""
    facts = {name: path.stat() for name, path in files.items()}
    return {name: (found.st_size, found.st_mtime_ns, found.st_ino) for name, found in facts.items()}
