"""A complete upload to a folder, which appears whole and verified or not at all.

Files are fetched in ranges, several at once, into a hidden folder beside the target, each verified by its
SHA-256 and kept there; a download that was stopped, however, goes on with what is in it. Then all of them are
renamed into the target: a new one appears whole, to one that is there the files are added that it lacks, and
nothing else in it is touched. Files that are there already and are the same are not fetched again.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from wf_formats.atomic import atomic_folder, sync
from wf_formats.errors import RequestError
from wf_formats.targets import FolderKind, check_folder, check_way
from wf_stores.errors import DamagedUploadError, ObjectMissingError
from wf_stores.held import held, remove_held
from wf_stores.layout import check_name, file_key
from wf_stores.manifest import Entry, Manifest, entry_of
from wf_stores.parallel import in_parallel, nothing
from wf_stores.records import read_manifest
from wf_stores.store import PART_BYTES, Advance, Store

_FILES, _PARTS = "files", "parts"
_DIGITS = 16
"""Of an upload's digest, in the name of its hidden folder."""


@dataclass(frozen=True)
class Downloaded:
    """num_bytes: of all files; fetched_bytes: of those that were not there."""

    digest: str
    num_files: int
    num_bytes: int
    fetched_bytes: int


def download_folder(
    store: Store,
    name: str,
    target: Path | str,
    advance: Advance = nothing,
    manifest: Manifest | None = None,
) -> Downloaded:
    """Makes `target` the folder that was uploaded as `name`.

    Args:
        advance: called with the bytes of each part that is there now.
        manifest: of the upload, where it was read already.

    Raises:
        NotThereError: no complete upload.
        RequestError: something else is at `target`, which is left as it is; or it is a mount.
        DamagedUploadError: what is stored is not what was uploaded; names the file.
        StoreError: the store failed; repeated it goes on.
        OSError: of writing.
    """
    check_name(name)
    check_way(Path(target))
    target = Path(os.path.abspath(target))
    manifest = manifest or read_manifest(store, name)
    with _named(target), _working_folder(target, manifest.digest) as folder:
        same = _same_files(target, manifest)
        kind = FolderKind(f"{store.url}/{name}", lambda _folder: [escape(file) for file in same])
        check_folder(target, kind)
        missing = [file for file in manifest.files if file not in same]
        _check_free(target, missing)
        advance(sum(manifest.files[file].num_bytes for file in same))
        fetched_bytes = _fetch(store, name, manifest, missing, folder, advance)
        if missing:
            _assemble(target, folder / _FILES, missing, kind)
    return Downloaded(manifest.digest, len(manifest.files), manifest.num_bytes, fetched_bytes)


def check_upload(store: Store, name: str, advance: Advance = nothing) -> Manifest:
    """Reads a complete upload as a download does, and keeps nothing.

    Raises: as `download_folder`, but for the target.
    """
    check_name(name)
    manifest = read_manifest(store, name)

    def one(file: str, advance: Advance) -> None:
        entry, digest = manifest.files[file], hashlib.sha256()
        source = _Source(store, file_key(name, manifest.digest, file), entry)
        for start in source.starts:
            data = source.read(start)
            digest.update(data)
            advance(len(data))
        source.check(digest.hexdigest())

    in_parallel(one, manifest.files, advance)
    return manifest


@dataclass(frozen=True)
class _Source:
    """A file in the store, read in ranges."""

    store: Store
    key: str
    entry: Entry

    @property
    def starts(self) -> range:
        """Of the ranges; an empty file has one."""
        return range(0, max(1, self.entry.num_bytes), PART_BYTES)

    def read(self, start: int) -> bytes:
        """A whole range. Raises: DamagedUploadError."""
        num_bytes = min(PART_BYTES, self.entry.num_bytes - start)
        try:
            data = self.store.read(self.key, start, max(1, num_bytes))[:num_bytes]
        except ObjectMissingError as error:
            raise self._damaged("is missing") from error
        if len(data) != num_bytes:
            raise self._damaged(f"has {start + len(data)} bytes instead of {self.entry.num_bytes}")
        return data

    def check(self, sha256: str) -> None:
        """Raises: DamagedUploadError for another digest than the manifest's."""
        if sha256 != self.entry.sha256:
            raise self._damaged("has other contents (SHA-256 differs)")

    def _damaged(self, finding: str) -> DamagedUploadError:
        return DamagedUploadError(f"{self.store.url}/{self.key} {finding}; upload it again")


class _Arriving:
    """A file whose ranges arrive in any order; the last one's thread verifies it and gives it its name."""

    def __init__(self, source: _Source, part: Path, path: Path) -> None:
        self.source, self._part, self._path = source, part, path
        self._left, self._lock = len(source.starts), threading.Lock()
        for file in (part, path):
            file.parent.mkdir(parents=True, exist_ok=True)

    def fetch(self, start: int, advance: Advance) -> None:
        data = self.source.read(start)
        _write_at(self._part, start, data)
        with self._lock:
            self._left -= 1
            is_last = self._left == 0
        if is_last:
            self.source.check(entry_of(self._part, with_crc32c=False).sha256)
            self._part.rename(self._path)
        advance(len(data))


def _fetch(
    store: Store, name: str, manifest: Manifest, missing: Sequence[str], folder: Path, advance: Advance
) -> int:
    """Puts the missing files into `folder`/files. Returns: bytes of those that were not there yet."""
    kept = _same_files(folder / _FILES, manifest)
    advance(sum(manifest.files[file].num_bytes for file in kept))
    shutil.rmtree(folder / _PARTS, ignore_errors=True)
    arriving = [
        _Arriving(
            _Source(store, file_key(name, manifest.digest, file), manifest.files[file]),
            folder / _PARTS / file,
            folder / _FILES / file,
        )
        for file in missing
        if file not in kept
    ]
    ranges = [(file, start) for file in arriving for start in file.source.starts]
    in_parallel(lambda item, advance: item[0].fetch(item[1], advance), ranges, advance)
    return sum(file.source.entry.num_bytes for file in arriving)


def _check_free(target: Path, missing: Sequence[str]) -> None:
    """Raises: RequestError where a folder stands in a file's place, or files cannot be renamed to."""
    if os.path.ismount(target):
        raise RequestError(f"{target} is a mount; give a folder in it, such as {target / 'download'}")
    for file in missing:
        if os.path.lexists(target / file):
            raise RequestError(
                f"{target / file} is where the upload has a file; move it away, or choose another path"
            )


def _assemble(target: Path, files: Path, missing: Sequence[str], kind: FolderKind) -> None:
    """Raises: RequestError where somebody has put something there since it was looked at."""
    if not target.is_dir():
        with atomic_folder(target, kind) as temporary:
            _move(missing, files, temporary)
        return
    for file in missing:
        sync(files / file)
    check_folder(target, kind)
    _check_free(target, missing)
    _move(missing, files, target)
    for folder in {(target / file).parent for file in missing}:
        sync(folder)


def _move(names: Sequence[str], source: Path, target: Path) -> None:
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).rename(target / name)


def is_unfinished(name: str) -> bool:
    """Whether a file's name is that of a download's hidden folder."""
    return re.fullmatch(rf"\..+\.get-[0-9a-f]{{{_DIGITS}}}", name) is not None


def _same_files(folder: Path, manifest: Manifest) -> set[str]:
    """Names of the files that are in a folder, as the manifest has them."""
    same: set[str] = set()

    def one(name: str, _advance: Advance) -> None:
        path, entry = folder / name, manifest.files[name]
        if path.is_symlink() or not path.is_file() or path.stat().st_size != entry.num_bytes:
            return
        if entry_of(path, with_crc32c=False).sha256 == entry.sha256:
            same.add(name)

    in_parallel(one, manifest.files if folder.is_dir() else (), nothing)
    return same


@contextmanager
def _working_folder(target: Path, digest: str) -> Iterator[Path]:
    """The hidden folder of this download, held by one process at a time; removed at its end, kept after an
    error where there is something in it to go on from."""
    folder = target.with_name(f".{target.name}.get-{digest[:_DIGITS]}")
    with held(folder) as lock:
        try:
            yield folder
        except BaseException:
            if not any(path.is_file() for path in (folder / _FILES).rglob("*")):
                remove_held(folder, lock)
            raise
        remove_held(folder, lock)


def _write_at(path: Path, start: int, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        while data:
            written = os.pwrite(descriptor, data, start)
            start, data = start + written, data[written:]
    finally:
        os.close(descriptor)


@contextmanager
def _named(target: Path) -> Iterator[None]:
    """Errors about the hidden folder, and those of writing (which have no name), are about the target."""
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename).startswith(
            str(target.with_name(f".{target.name}."))
        ):
            error.filename, error.filename2 = str(target), None
        raise
