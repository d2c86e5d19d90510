"""URLs of stores: `gs://bucket/prefix`, `s3://bucket/prefix` (S3, R2 and what imitates them), or a path.

What is almost a URL is refused with the one that was probably meant: it is a path too, of a folder `s3:`.
"""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from wf_formats.errors import RequestError
from wf_formats.printable import printable
from wf_formats.secrets import redacted
from wf_formats.urls import meant_url

_SERVER = re.compile(
    r"https?://[A-Za-z0-9._-]+(:\d{1,5})?(/[^\s?#]*)?|https?://\[[0-9A-Fa-f:.]+\](:\d{1,5})?/?"
)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,221}")
BUCKET_SCHEMES = ("gs", "s3")
MAX_KEY_BYTES = 1024
"""Of GCS and S3."""


@dataclass(frozen=True)
class Location:
    """scheme: "gs", "s3", or "" for a folder; bucket: empty for a folder; prefix: no slash at its ends; of a
    folder its absolute path."""

    scheme: str
    bucket: str
    prefix: str

    def __str__(self) -> str:
        if not self.scheme:
            return self.prefix
        return f"{self.scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")

    def split(self) -> tuple[Location, str]:
        """The location around the last part, and that part.

        Raises: RequestError where there is no last part.
        """
        parent, _, name = self.prefix.rpartition("/")
        if not name:
            raise RequestError(
                f"{self} has no name of an upload: add one, such as {str(self).rstrip('/')}/run1"
            )
        return Location(self.scheme, self.bucket, parent or ("" if self.scheme else "/")), name


def is_bucket_url(text: str) -> bool:
    """Whether `text` is meant to be in a bucket, not a path; `parse_location` says whether it is right."""
    return meant_url(text) is not None


def parse_location(url: str | Path) -> Location:
    """Raises: RequestError for what is neither a bucket's URL nor a path; a password in it is not shown."""
    text = os.fspath(url)
    meant = meant_url(text)
    if meant is None:
        return Location("", "", _path(text))
    scheme, _, rest = meant.partition("://")
    shown = printable(redacted(meant))
    if scheme not in BUCKET_SCHEMES:
        raise RequestError(
            f"{shown}: unknown kind of store; give gs://BUCKET/PREFIX, s3://BUCKET/PREFIX or a path"
        )
    if meant != text:
        given = "this" if "@" in text else printable(text)
        raise RequestError(f"{given} is no URL: write {shown}, or ./NAME for a path of such a name")
    bucket, _, prefix = rest.partition("/")
    if "@" in bucket:
        raise RequestError(
            f"{shown}: credentials do not belong in a URL; put them into the environment or the default files"
        )
    if not _BUCKET.fullmatch(bucket):
        raise RequestError(f"{shown} names no bucket; give {scheme}://BUCKET/PREFIX")
    prefix = prefix.removesuffix("/")
    if prefix:
        check_key(prefix, shown)
    return Location(scheme, bucket, prefix)


def check_server(url: str, where: str) -> None:
    """Raises: RequestError for what is no address of a server; `where` says who gave it."""
    if _SERVER.fullmatch(url) is None:
        raise RequestError(
            f"{where}={printable(redacted(url))} is no server: give http://HOST:PORT or https://HOST"
        )


def check_key(key: str, shown: str) -> None:
    """Raises: RequestError for a name that some store, or a file system, cannot have."""
    reason = unfit(key)
    if reason is not None:
        raise RequestError(f"{shown} {reason}; choose another name")


def unfit(key: str) -> str | None:
    """Why a name with `/` between its parts cannot be stored everywhere; None for one that can."""
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "has an empty part, or `.` or `..`"
    if any(unicodedata.category(sign) in ("Cc", "Cs") for sign in key):
        return "has control characters, or bytes that are not UTF-8"
    if any(len(part.encode()) > 255 for part in parts):
        return "has a part of more than 255 bytes"
    return None


def _path(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise RequestError(f"{text!r} is no place: give gs://BUCKET/PREFIX, s3://BUCKET/PREFIX or a path")
    return os.path.abspath(os.path.expanduser(text))
