"""What can go wrong with a store: one line that names the URL, the reason and the remedy."""

from __future__ import annotations

from pathlib import Path

from wf_formats.errors import RequestError, UserError


class StoreError(UserError, RuntimeError):
    """The store did not do what was asked."""


class UnavailableError(StoreError):
    """No answer, or an overloaded server's, after retries too; a write may be done or not."""


class RefusedError(StoreError):
    """Credentials are missing, wrong, or do not allow it."""


class AnotherUploadError(StoreError):
    """Under this name something else is complete already."""


class DamagedUploadError(StoreError):
    """What is stored is not what was uploaded; the message names the file."""


class ChangedFileError(StoreError):
    """A file was written to while it was read."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} was changed while it was uploaded; upload it again")


class NotThereError(RequestError):
    """There is no such bucket, folder or upload."""


class NoUploadError(NotThereError):
    """The store answers, and has no complete upload of this name."""


class ObjectMissingError(LookupError):
    """Of a backend, for the code above it: there is no object with this key."""


class ObjectExistsError(LookupError):
    """Of a backend, for the code above it: an exclusive create found an object with this key."""
