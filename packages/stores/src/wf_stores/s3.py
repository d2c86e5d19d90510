"""S3, R2 and servers that imitate them, by obstore (the object_store of Apache Arrow, in Rust).

A file larger than a part goes as a multipart upload, several parts at once. Every request carries the SHA-256
of its body in its signature, which the server checks. What a listing tells of the contents is the ETag: the
MD5 of an object, of a multipart one that of its parts' MD5s. Where the server encrypts with its own keys
it is something else, and then a file counts as not there yet.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
import obstore.store
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError

from wf_formats.printable import printable
from wf_formats.secrets import redacted
from wf_stores.aws_files import endpoint, s3_settings, without_empty_variables
from wf_stores.errors import (
    NotThereError,
    ObjectExistsError,
    ObjectMissingError,
    RefusedError,
    StoreError,
    UnavailableError,
)
from wf_stores.location import Location
from wf_stores.patience import FIRST_PAUSE_S, LONGEST_PAUSE_S, patiently
from wf_stores.reading import CountedFile
from wf_stores.store import PART_BYTES, Advance, Patience, Stored

_PARTS_AT_ONCE = 4
_MAX_PARTS = 10_000
_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE of ~/.aws/credentials"
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([^<]{1,80})</Code>")


class S3Store:
    keeps_crc32c = False

    def __init__(self, location: Location, patience: Patience) -> None:
        self.url = str(location)
        self._prefix = f"{location.prefix}/" if location.prefix else ""
        self._name = location.bucket
        self._patience = patience
        self._server = endpoint()
        settings: Any = s3_settings()
        with self._told(), without_empty_variables():
            self._store: Any = obstore.store.S3Store(
                location.bucket,
                **settings,
                client_options={
                    "allow_http": (self._server or "").startswith("http://"),
                    "timeout": timedelta(seconds=patience.total_s),
                    "read_timeout": timedelta(seconds=patience.answer_s),
                    "connect_timeout": timedelta(seconds=min(10.0, patience.answer_s)),
                },
                retry_config={
                    "max_retries": 10,
                    "retry_timeout": timedelta(seconds=patience.total_s),
                    "backoff": {
                        "init_backoff": timedelta(seconds=FIRST_PAUSE_S),
                        "max_backoff": timedelta(seconds=LONGEST_PAUSE_S),
                        "base": 2,
                    },
                },
            )

    def put_file(self, key: str, path: Path, advance: Advance) -> None:
        size = path.stat().st_size
        with path.open("rb") as file:
            if size <= PART_BYTES:
                data = file.read()
                patiently(lambda: self._put_whole(key, data), self._patience)
                advance(len(data))
            else:
                counted = CountedFile(file, advance)
                patiently(lambda: self._put_parts(key, counted, _part_bytes(size)), self._patience)

    def _put_whole(self, key: str, data: bytes) -> None:
        with self._told():
            obstore.put(self._store, self._prefix + key, data, use_multipart=False)

    def _put_parts(self, key: str, file: Any, part_bytes: int) -> None:
        file.seek(0)
        with self._told(reading=file):
            obstore.put(
                self._store,
                self._prefix + key,
                file,
                use_multipart=True,
                chunk_size=part_bytes,
                max_concurrency=_PARTS_AT_ONCE,
            )

    def create(self, key: str, data: bytes) -> None:
        try:
            with self._told():
                obstore.put(self._store, self._prefix + key, data, mode="create")
        except AlreadyExistsError as error:
            raise ObjectExistsError(key) from error

    def read(self, key: str, start: int, num_bytes: int) -> bytes:
        return patiently(lambda: self._read(key, start, num_bytes), self._patience)

    def _read(self, key: str, start: int, num_bytes: int) -> bytes:
        try:
            with self._told(ObjectMissingError(key)):
                found = obstore.get_range(self._store, self._prefix + key, start=start, length=num_bytes)
                return bytes(found)
        except _RangeError:
            return b""

    def objects(self, prefix: str) -> Iterator[Stored]:
        yield from patiently(lambda: self._objects(prefix), self._patience)

    def _objects(self, prefix: str) -> list[Stored]:
        with self._told():
            pages = obstore.list(self._store, self._prefix + prefix)
            return [self._stored(found) for page in pages for found in page]

    def _stored(self, found: Any) -> Stored:
        key = found["path"].removeprefix(self._prefix)
        return Stored(key, found["size"], found["last_modified"], found["e_tag"])

    def holds(self, stored: Stored, path: Path) -> bool:
        return (stored.checksum or "").strip('"') == etag_of(path)

    def delete(self, key: str) -> None:
        try:
            with self._told(ObjectMissingError(key)):
                obstore.delete(self._store, self._prefix + key)
        except ObjectMissingError:
            return

    @contextmanager
    def _told(self, missing: Exception | None = None, reading: CountedFile | None = None) -> Iterator[None]:
        """Errors of the library as those of errors.py; what `reading` raised passes.

        Args:
            missing: what "not found" means, if not the bucket.
        """
        try:
            yield
        except AlreadyExistsError:
            raise
        except (BaseError, OSError, ValueError) as error:
            if reading is not None and reading.error is not None:
                raise reading.error from None
            raise self._error(error, missing) from error

    def _error(self, error: Exception, missing: Exception | None) -> Exception:
        text = str(error)
        status, code = (_first(pattern, text) for pattern in (_STATUS, _CODE))
        if code == "NoSuchBucket" or (isinstance(error, FileNotFoundError) and missing is None):
            where = f" at {redacted(self._server)}" if self._server else ""
            return NotThereError(
                f"{self.url}: there is no bucket {self._name}{where}; check the name, or create it"
            )
        if isinstance(error, FileNotFoundError) and missing is not None:
            return missing
        if status == "416":
            return _RangeError()
        what = printable(" ".join(filter(None, (status, code))) or _words(text), 200)
        if "invalid path" in text:  # of object_store, whose keys have no empty parts, `.` or `..`
            return StoreError(
                f"{self.url} cannot be listed because of somebody's object ({what}); rename it, or give a "
                "URL below which there is none"
            )
        if "/latest/" in text:  # of the machine's metadata, the last resort
            return RefusedError(f"{self.url}: no credentials; {_CREDENTIALS}")
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or status in ("401", "403"):
            return RefusedError(
                f"{self.url}: access is refused ({what}); check the permissions, or {_CREDENTIALS}"
            )
        if "redirect" in text.lower() or status == "301":
            return StoreError(f"{self.url}: the bucket is in another region; set AWS_REGION to it")
        if "HTTP error" in text or (status is not None and (status[0] == "5" or status == "429")):
            return UnavailableError(f"{self.url}: no answer ({what}); try again later")
        return StoreError(f"{self.url}: {what}")


class _RangeError(Exception):
    """A range behind the end of an object."""


def etag_of(path: Path) -> str:
    """Of a file as `put_file` sends it: MD5, or MD5 of the parts' MD5s and their number."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= PART_BYTES:
            return _md5(file.read()).hexdigest()
        parts = []
        while data := file.read(_part_bytes(size)):
            parts.append(_md5(data).digest())
    return f"{_md5(b''.join(parts)).hexdigest()}-{len(parts)}"


def _md5(data: bytes) -> hashlib._Hash:
    return hashlib.md5(data, usedforsecurity=False)


def _part_bytes(size: int) -> int:
    """Larger ones where there would be more parts than S3 takes."""
    return max(PART_BYTES, -(-size // _MAX_PARTS))


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return found[1] if found else None


def _words(text: str) -> str:
    """The heart of obstore's error: its first paragraph has the request and what became of it."""
    first = " ".join(redacted(text.partition("\n\n")[0]).split())
    return first.rpartition(" - ")[2] if " - " in first else first
