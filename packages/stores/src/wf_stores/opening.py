"""From a URL to its store; a backend's library is imported only for a URL that needs it."""

from __future__ import annotations

from pathlib import Path

from wf_stores.location import Location, parse_location
from wf_stores.store import Patience, Store


def open_store(url: str | Path | Location, patience: Patience | None = None) -> Store:
    """The store at `gs://bucket/prefix`, `s3://bucket/prefix` or a path.

    Credentials are ambient: those of the environment and of each cloud's default files. STORAGE_EMULATOR_HOST
    and AWS_ENDPOINT_URL lead to other servers.

    Raises:
        RequestError: no such kind of URL.
        RefusedError: there are no credentials.
    """
    location = url if isinstance(url, Location) else parse_location(url)
    patience = patience or Patience()
    if location.scheme == "gs":
        from wf_stores.gcs import GcsStore

        return GcsStore(location, patience)
    if location.scheme == "s3":
        from wf_stores.s3 import S3Store

        return S3Store(location, patience)
    from wf_stores.local import LocalStore

    return LocalStore(location)
