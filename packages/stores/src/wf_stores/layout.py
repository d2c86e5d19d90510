"""Where the parts of an upload lie below a store's URL, NAME being the upload's:

    NAME/<digest>/manifest.json   sizes and hashes of the files; <digest> is its SHA-256: written first
    NAME/<digest>/files/...       the files, under their own names
    NAME/COMPLETE                 the digest: written last, exclusively

So what is stored under a digest never changes, whoever writes it, and two writers of different contents never
touch each other's files. A name has no part that looks like a digest, so a key says what it would be of.

That it is ours its contents say: a COMPLETE holds a digest, and what lies under a digest is vouched for by a
COMPLETE that holds it, or by a manifest that has it (inventory.py). Registries and caches, whose folders are
digests too, and others' files called COMPLETE have neither, and are passed over.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from wf_formats.errors import RequestError
from wf_formats.printable import printable
from wf_stores.location import check_key, unfit

COMPLETE = "COMPLETE"
MANIFEST = "manifest.json"
_FILES = "files"
DIGEST = re.compile("[0-9a-f]{64}")


def check_name(name: str) -> None:
    """Raises: RequestError for what cannot be the name of an upload; `a/b` can."""
    check_key(name, f"the name {printable(repr(name))}")
    if _is_within(name):
        raise RequestError(
            f"{printable(name)} is a part of an upload, not the name of one; give what is above it"
        )


def _is_within(name: str) -> bool:
    """Whether it has a part that only an upload's own keys have."""
    parts = name.split("/")
    return parts[-1] == COMPLETE or any(DIGEST.fullmatch(part) for part in parts)


def complete_key(name: str) -> str:
    return f"{name}/{COMPLETE}"


def data_prefix(name: str, digest: str) -> str:
    return f"{name}/{digest}/"


def manifest_key(name: str, digest: str) -> str:
    return f"{data_prefix(name, digest)}{MANIFEST}"


def file_key(name: str, digest: str, file: str) -> str:
    return f"{data_prefix(name, digest)}{_FILES}/{file}"


@dataclass(frozen=True)
class Place:
    """What a key would be of: an upload's data, or with digest None its COMPLETE."""

    name: str
    digest: str | None


def place_of(key: str) -> Place | None:
    """None for a key that no upload has."""
    if unfit(key) is not None:
        return None
    parts = key.split("/")
    index = next((index for index, part in enumerate(parts) if DIGEST.fullmatch(part)), len(parts) - 1)
    name, here, below = "/".join(parts[:index]), parts[index], parts[index + 1 :]
    if not name or _is_within(name):
        return None
    if here == COMPLETE:
        return Place(name, None)
    is_data = below == [MANIFEST] or (len(below) > 1 and below[0] == _FILES)
    return Place(name, here) if is_data else None
