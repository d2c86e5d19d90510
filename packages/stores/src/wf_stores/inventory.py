"""What a store holds: complete uploads, and what was left of others; removing either.

An upload is removed in the order opposite to its making: COMPLETE first, then the data, so no reader ever
takes half of one for whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from wf_stores.errors import DamagedUploadError, NotThereError
from wf_stores.layout import check_name, complete_key, place_of
from wf_stores.parallel import in_parallel, nothing
from wf_stores.records import complete_digest
from wf_stores.store import Advance, Store, Stored


@dataclass(frozen=True)
class Upload:
    """Of an incomplete one too. num_bytes: of its objects; modified: of the newest."""

    name: str
    digest: str
    is_complete: bool
    num_bytes: int
    modified: datetime


def complete_names(store: Store, under: str = "") -> list[str]:
    """Names of the complete uploads, sorted, below a name; by COMPLETE alone, which vouches for the rest."""
    prefix = f"{under}/" if under else ""
    places = (place_of(stored.key) for stored in store.objects(prefix))
    return sorted(place.name for place in places if place is not None and place.digest is None)


def list_uploads(store: Store, under: str = "") -> list[Upload]:
    """All of them, complete or not, sorted by name. Cost: a listing, and a small object a name."""
    groups: dict[tuple[str, str], list[Stored]] = {}
    marked: set[str] = set()
    for stored in store.objects(f"{under}/" if under else ""):
        place = place_of(stored.key)
        if place is not None and place.digest is None:
            marked.add(place.name)
        elif place is not None and place.digest is not None:
            groups.setdefault((place.name, place.digest), []).append(stored)
    whole = {name: _digest(store, name) for name in sorted(marked)}
    found = [
        Upload(
            name,
            digest,
            whole.get(name) == digest,
            sum(stored.num_bytes for stored in objects),
            max(stored.modified for stored in objects),
        )
        for (name, digest), objects in groups.items()
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
    places = [(stored, place_of(stored.key)) for stored in store.objects(f"{name}/")]
    own = [stored for stored, place in places if place is not None and place.name == name]
    if not own:
        raise NotThereError(f"there is no upload at {store.url}/{name}; wf store ls shows what there is")
    store.delete(complete_key(name))
    _delete(store, (stored for stored in own if stored.key != complete_key(name)), advance)


def remove_incomplete(store: Store, upload: Upload, advance: Advance = nothing) -> None:
    """Removes the data of an upload that is not complete, unless it has become so."""
    if _digest(store, upload.name) == upload.digest:
        return
    _delete(store, store.objects(f"{upload.name}/{upload.digest}/"), advance)


def _delete(store: Store, objects: Iterable[Stored], advance: Advance) -> None:
    def one(stored: Stored, advance: Advance) -> None:
        store.delete(stored.key)
        advance(stored.num_bytes)

    in_parallel(one, list(objects), advance)


def _digest(store: Store, name: str) -> str | None:
    """None where COMPLETE is damaged: then nothing under the name is complete."""
    with suppress(DamagedUploadError):
        return complete_digest(store, name)
    return None
