"""The small objects of an upload: COMPLETE and the manifest."""

from __future__ import annotations

import hashlib
from contextlib import suppress

from wf_formats.printable import printable
from wf_stores.errors import (
    AnotherUploadError,
    DamagedUploadError,
    NoUploadError,
    ObjectExistsError,
    ObjectMissingError,
    StoreError,
    UnavailableError,
)
from wf_stores.layout import DIGEST, complete_key, manifest_key
from wf_stores.manifest import MAX_BYTES, Manifest, parse_manifest
from wf_stores.store import PART_BYTES, Store

MARKER_BYTES = 65
"""Of COMPLETE: the digest and the end of the line."""
_MOST_TRIES = 10


def read_whole(store: Store, key: str, most_bytes: int = MAX_BYTES) -> bytes:
    """A small object. Raises: ObjectMissingError; DamagedUploadError for a large one."""
    data = b""
    while part := store.read(key, len(data), PART_BYTES):
        data += part
        if len(data) > most_bytes:
            raise DamagedUploadError(f"{store.url}/{key} has more than {most_bytes} bytes; remove the upload")
    return data


def create_once(store: Store, key: str, data: bytes) -> bool:
    """Whether an object with exactly these bytes is there now; False: it has others.

    An answer that was lost, or a retry of the library's that found what the first try had written, is settled
    by reading. What somebody removes before it is read is made again.

    Raises: StoreError where that never ends.
    """
    for _ in range(_MOST_TRIES):
        try:
            store.create(key, data)
        except (ObjectExistsError, UnavailableError) as error:
            try:
                return read_whole(store, key) == data
            except ObjectMissingError:
                if isinstance(error, UnavailableError):
                    raise error from None
        else:
            return True
    raise StoreError(f"{store.url}/{key} is made and removed by others all the time; try again later")


def complete_digest(store: Store, name: str) -> str | None:
    """The digest in COMPLETE; None without one. Raises: DamagedUploadError for something else in it."""
    try:
        text = store.read(complete_key(name), 0, MARKER_BYTES + 1).decode(errors="replace")
    except ObjectMissingError:
        return None
    if not DIGEST.fullmatch(text.removesuffix("\n")):
        raise DamagedUploadError(
            f"{store.url}/{complete_key(name)} holds {printable(repr(text), 80)}, no digest: it is damaged, "
            "or somebody else's; remove it yourself if nobody needs it, wf store does not"
        )
    return text.removesuffix("\n")


def vouches(store: Store, name: str, digest: str) -> bool:
    """Whether the manifest below a digest is the one that has it, so that what lies there is an upload's."""
    try:
        data = read_whole(store, manifest_key(name, digest))
        parse_manifest(data, manifest_key(name, digest))
    except (ObjectMissingError, DamagedUploadError):
        return False
    return hashlib.sha256(data).hexdigest() == digest


def mark_complete(store: Store, name: str, digest: str) -> None:
    """Raises: AnotherUploadError where another upload was first."""
    if not create_once(store, complete_key(name), f"{digest}\n".encode()):
        raise another(store, name, digest)


def unmark(store: Store, name: str, digest: str) -> None:
    """Removes COMPLETE where it is of these data, some of which are gone."""
    with suppress(DamagedUploadError):
        if complete_digest(store, name) == digest:
            store.delete(complete_key(name))


def another(store: Store, name: str, digest: str) -> AnotherUploadError:
    """The error of an upload that finds another in its place."""
    there = complete_digest(store, name)
    return AnotherUploadError(
        f"{store.url}/{name} is complete with other contents ({(there or 'removed meanwhile')[:12]} there, "
        f"{digest[:12]} here); choose another name, or remove it with wf store rm"
    )


def read_manifest(store: Store, name: str) -> Manifest:
    """The manifest of a complete upload, verified.

    Raises:
        NoUploadError: no upload, or an incomplete one.
        DamagedUploadError: COMPLETE or the manifest is not what was written.
    """
    digest = complete_digest(store, name)
    if digest is None:
        raise _not_there(store, name)
    shown = f"{store.url}/{manifest_key(name, digest)}"
    try:
        data = read_whole(store, manifest_key(name, digest))
    except ObjectMissingError as error:
        raise DamagedUploadError(f"{shown} is missing: the upload is damaged; upload it again") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise DamagedUploadError(f"{shown} is damaged (SHA-256 differs); upload it again")
    return parse_manifest(data, shown)


def _not_there(store: Store, name: str) -> NoUploadError:
    """With what is there instead; a missing bucket is told by the listing."""
    shown = f"{store.url}/{name}"
    if next(iter(store.objects(f"{name}/")), None) is None:
        return NoUploadError(f"there is nothing at {shown}; wf store ls shows what there is")
    return NoUploadError(
        f"there is no complete upload at {shown}; wf store ls shows those below it, and with "
        "--incomplete what was not finished"
    )
