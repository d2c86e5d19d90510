"""Google Cloud Storage, by Google's own library (the only one whose uploads resume in chunks and whose
exclusive create the test server knows).

Chunks of a file are sent one after another, each retried from where the server stands, and the CRC32C that
the server reports is compared. Several files go at once (uploading.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import google.auth.exceptions
import requests
from google.api_core import exceptions as api
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.retry import DEFAULT_RETRY

from wf_formats.printable import printable
from wf_formats.secrets import redacted
from wf_stores.crc32c import crc32c_of
from wf_stores.errors import (
    ChangedFileError,
    NotThereError,
    ObjectExistsError,
    ObjectMissingError,
    RefusedError,
    StoreError,
    UnavailableError,
)
from wf_stores.location import Location, check_server
from wf_stores.patience import FIRST_PAUSE_S, LONGEST_PAUSE_S, patiently
from wf_stores.reading import CountedFile
from wf_stores.store import PART_BYTES, Advance, Patience, Stored

_CONNECT_S = 10.0
_SERVER = "STORAGE_EMULATOR_HOST"
_CREDENTIALS = "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS"
_FIELDS = "items(name,size,updated,crc32c),nextPageToken"
_TOO_SHORT = "bytes remaining"
"""In what the library says of a file that ended before its size."""


class GcsStore:
    keeps_crc32c = True

    def __init__(self, location: Location, patience: Patience) -> None:
        self.url = str(location)
        self._prefix = f"{location.prefix}/" if location.prefix else ""
        self._name = location.bucket
        self._patience = patience
        self._how: dict[str, Any] = {
            "timeout": (min(_CONNECT_S, patience.answer_s), patience.answer_s),
            "retry": DEFAULT_RETRY.with_timeout(patience.total_s).with_delay(
                initial=FIRST_PAUSE_S, maximum=LONGEST_PAUSE_S, multiplier=2
            ),
        }
        if server := os.environ.get(_SERVER):
            check_server(server, _SERVER)
        with self._told():
            self._bucket = storage.Client(project=None).bucket(location.bucket)

    def put_file(self, key: str, path: Path, advance: Advance) -> None:
        size = path.stat().st_size
        with path.open("rb") as file:
            counted = CountedFile(file, advance)
            try:
                patiently(lambda: self._put(key, counted, size), self._patience)
            except ValueError as error:
                if _TOO_SHORT not in str(error):
                    raise
                raise ChangedFileError(path) from error

    def _put(self, key: str, file: CountedFile, size: int) -> None:
        with self._told():
            blob = self._bucket.blob(self._prefix + key, chunk_size=PART_BYTES)
            blob.upload_from_file(file, rewind=True, size=size, checksum="crc32c", **self._how)

    def create(self, key: str, data: bytes) -> None:
        try:
            with self._told():
                blob = self._bucket.blob(self._prefix + key)
                blob.upload_from_string(data, if_generation_match=0, checksum="crc32c", **self._how)
        except api.PreconditionFailed as error:
            raise ObjectExistsError(key) from error

    def read(self, key: str, start: int, num_bytes: int) -> bytes:
        return patiently(lambda: self._read(key, start, num_bytes), self._patience)

    def _read(self, key: str, start: int, num_bytes: int) -> bytes:
        try:
            with self._told(ObjectMissingError(key)):
                blob = self._bucket.blob(self._prefix + key)
                found: bytes = blob.download_as_bytes(
                    start=start, end=start + num_bytes - 1, raw_download=True, checksum=None, **self._how
                )
                return found
        except api.RequestRangeNotSatisfiable:
            return b""

    def objects(self, prefix: str) -> Iterator[Stored]:
        yield from patiently(lambda: self._objects(prefix), self._patience)

    def _objects(self, prefix: str) -> list[Stored]:
        with self._told():
            blobs = self._bucket.list_blobs(prefix=self._prefix + prefix, fields=_FIELDS, **self._how)
            return [
                Stored(blob.name.removeprefix(self._prefix), int(blob.size), blob.updated, blob.crc32c)
                for blob in blobs
            ]

    def holds(self, stored: Stored, path: Path) -> bool:
        return stored.checksum == crc32c_of(path)

    def delete(self, key: str) -> None:
        try:
            with self._told(ObjectMissingError(key)):
                self._bucket.blob(self._prefix + key).delete(**self._how)
        except ObjectMissingError:
            return

    @contextmanager
    def _told(self, missing: Exception | None = None) -> Iterator[None]:
        """Errors of the library as those of errors.py.

        Args:
            missing: what "not found" means, if not the bucket.
        """
        try:
            yield
        except (api.PreconditionFailed, api.RequestRangeNotSatisfiable):
            raise
        except api.NotFound as error:
            raise missing or NotThereError(
                f"{self.url}: there is no bucket {self._name}; check the name, or create it"
            ) from error
        except (api.Unauthorized, api.Forbidden) as error:
            raise RefusedError(
                f"{self.url}: access is refused ({_words(error)}); check the permissions, or {_CREDENTIALS}"
            ) from error
        except google.auth.exceptions.TransportError as error:
            raise UnavailableError(f"{self.url}: no answer ({_words(error)}); try again later") from error
        except google.auth.exceptions.GoogleAuthError as error:
            raise RefusedError(f"{self.url}: no credentials ({_words(error)}); {_CREDENTIALS}") from error
        except (api.RetryError, api.ServerError, api.TooManyRequests) as error:
            raise UnavailableError(f"{self.url}: no answer ({_words(error)}); try again later") from error
        except (requests.RequestException, DataCorruption) as error:  # the latter of what was on its way
            raise UnavailableError(f"{self.url}: no answer ({_words(error)}); try again later") from error
        except (api.GoogleAPICallError, InvalidResponse) as error:
            raise StoreError(f"{self.url}: {_words(error)}") from error


def _words(error: BaseException) -> str:
    """The heart of an error, in one line: a RetryError's and an InvalidResponse's is inside."""
    cause = getattr(error, "cause", None) or error
    text = getattr(cause, "message", None) or str(cause)
    return printable(" ".join(redacted(str(text)).split()), 200)
