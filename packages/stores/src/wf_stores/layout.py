"""Where the parts of an upload lie below a store's URL, NAME being the upload's:

    NAME/<digest>/files/...       the files, under their own names
    NAME/<digest>/manifest.json   their sizes and hashes; <digest> is its SHA-256
    NAME/COMPLETE                 the digest: written last, exclusively

So what is stored under a digest never changes, whoever writes it, and two writers of different contents never
touch each other's files. A name has no part that looks like a digest, so every key says what it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from wf_formats.errors import RequestError
from wf_formats.printable import printable
from wf_stores.location import check_key

COMPLETE = "COMPLETE"
MANIFEST = "manifest.json"
DIGEST = re.compile("[0-9a-f]{64}")


def check_name(name: str) -> None:
    """Raises: RequestError for what cannot be the name of an upload; `a/b` can."""
    check_key(name, f"the name {printable(repr(name))}")
    parts = name.split("/")
    if parts[-1] == COMPLETE or any(DIGEST.fullmatch(part) for part in parts):
        raise RequestError(
            f"{printable(name)} is a part of an upload, not the name of one; give what is above it"
        )


def complete_key(name: str) -> str:
    return f"{name}/{COMPLETE}"


def data_prefix(name: str, digest: str) -> str:
    return f"{name}/{digest}/"


def manifest_key(name: str, digest: str) -> str:
    return f"{data_prefix(name, digest)}{MANIFEST}"


def file_key(name: str, digest: str, file: str) -> str:
    return f"{data_prefix(name, digest)}files/{file}"


@dataclass(frozen=True)
class Place:
    """What a key is of: an upload's data, or with digest None its COMPLETE."""

    name: str
    digest: str | None


def place_of(key: str) -> Place | None:
    """None for an object that is of no upload."""
    parts = key.split("/")
    for index, part in enumerate(parts):
        if index and DIGEST.fullmatch(part):
            return Place("/".join(parts[:index]), part)
    return Place("/".join(parts[:-1]), None) if len(parts) > 1 and parts[-1] == COMPLETE else None
