"""What a store holds of ours: complete uploads, and what was left of others; removing either.

Whatever else lies there is neither listed nor removed, whatever it is called; layout.py says what tells ours
from others'. An upload is removed in the order opposite to its making: COMPLETE first, then the files, last
the manifest. So no reader takes half of one for whole, and what a stopped removal leaves is known as ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from wf_stores.errors import DamagedUploadError, NotThereError
from wf_stores.layout import check_name, complete_key, manifest_key, place_of
from wf_stores.parallel import in_parallel, nothing
from wf_stores.records import MARKER_BYTES, complete_digest, unmark, vouches
from wf_stores.store import Advance, Store, Stored

_Data = Mapping[tuple[str, str], Sequence[Stored]]


@dataclass(frozen=True)
class Upload:
    """Of an incomplete one too. num_bytes: of its objects; modified: of the newest."""

    name: str
    digest: str
    is_complete: bool
    num_bytes: int
    modified: datetime


@dataclass(frozen=True)
class _Own:
    """digests: by name what COMPLETE holds, None where that is damaged; data: by name and digest."""

    digests: Mapping[str, str | None]
    data: _Data


def complete_names(store: Store, under: str = "") -> list[str]:
    """Names of the complete uploads, sorted, below a name; by COMPLETE alone, which vouches for the rest.

    One whose COMPLETE is damaged is among them: who reads it is told.
    """
    return sorted(_own(store, under).digests)


def list_uploads(store: Store, under: str = "") -> list[Upload]:
    """All of them, complete or not, sorted by name. Cost: a listing, and a small object each."""
    own = _own(store, under)
    found = [
        Upload(
            name,
            digest,
            own.digests.get(name) == digest,
            sum(stored.num_bytes for stored in objects),
            max(stored.modified for stored in objects),
        )
        for (name, digest), objects in own.data.items()
    ]
    return sorted(found, key=lambda upload: (upload.name, not upload.is_complete, upload.digest))


def incomplete_uploads(store: Store, under: str = "", older_than: timedelta = timedelta()) -> list[Upload]:
    """Uploads that were not finished, or lost against another writer, and were last added to so long ago."""
    now = datetime.now(UTC)
    return [
        upload
        for upload in list_uploads(store, under)
        if not upload.is_complete and now - upload.modified >= older_than
    ]


def remove_upload(store: Store, name: str, advance: Advance = nothing) -> None:
    """Removes an upload with all that was begun under its name; not what is below it (`name`/...).

    Args:
        advance: called with the size of each object that is gone.

    Raises: NotThereError where there is none.
    """
    check_name(name)
    own = _own(store, name, only=name)
    is_marked = own.digests.get(name) is not None
    if not is_marked and not own.data:
        raise NotThereError(f"there is no upload at {store.url}/{name}; wf store ls shows what there is")
    if is_marked:
        store.delete(complete_key(name))
    for (_, digest), objects in own.data.items():
        _delete(store, name, digest, objects, advance)


def remove_incomplete(store: Store, upload: Upload, advance: Advance = nothing) -> None:
    """Removes the data of an upload that is not complete.

    It stays where it has become so since it was listed, or where COMPLETE is damaged, so that nobody can say.

    Args:
        advance: called with the size of each object that is gone.
    """
    own = _own(store, upload.name, only=upload.name)
    if own.digests.get(upload.name, "") in (None, upload.digest):
        return
    objects = own.data.get((upload.name, upload.digest), ())
    _delete(store, upload.name, upload.digest, objects, advance)


def _own(store: Store, under: str, only: str | None = None) -> _Own:
    """What is ours below a name; with `only`, of that name alone."""
    markers: dict[str, Stored] = {}
    data: dict[tuple[str, str], list[Stored]] = {}
    for stored in store.objects(f"{under}/" if under else ""):
        place = place_of(stored.key)
        if place is None or only not in (None, place.name):
            continue
        if place.digest is None:
            markers[place.name] = stored
        else:
            data.setdefault((place.name, place.digest), []).append(stored)
    digests = _digests(store, markers)
    own = _vouched(store, digests, data)
    with_data = {name for name, _ in own}
    return _Own({name: digests[name] for name in digests if digests[name] or name in with_data}, own)


def _digests(store: Store, markers: Mapping[str, Stored]) -> dict[str, str | None]:
    """By name what COMPLETE holds; None for anything but a digest."""
    found: dict[str, str | None] = {}

    def one(name: str, _advance: Advance) -> None:
        found[name] = None
        if markers[name].num_bytes in (MARKER_BYTES - 1, MARKER_BYTES):
            with suppress(DamagedUploadError):
                found[name] = complete_digest(store, name)

    in_parallel(one, markers, nothing)
    return found


def _vouched(store: Store, digests: Mapping[str, str | None], data: _Data) -> _Data:
    """The data that COMPLETE or the manifest says is ours."""
    own = {key for key in data if digests.get(key[0]) == key[1]}

    def one(key: tuple[str, str], _advance: Advance) -> None:
        has_manifest = any(stored.key == manifest_key(*key) for stored in data[key])
        if has_manifest and vouches(store, *key):
            own.add(key)

    in_parallel(one, data.keys() - own, nothing)
    return {key: objects for key, objects in data.items() if key in own}


def _delete(store: Store, name: str, digest: str, objects: Sequence[Stored], advance: Advance) -> None:
    """The manifest last; and COMPLETE, where a writer was done meanwhile."""

    def one(stored: Stored, advance: Advance) -> None:
        store.delete(stored.key)
        advance(stored.num_bytes)

    manifest = manifest_key(name, digest)
    in_parallel(one, [stored for stored in objects if stored.key != manifest], advance)
    in_parallel(one, [stored for stored in objects if stored.key == manifest], advance)
    unmark(store, name, digest)
