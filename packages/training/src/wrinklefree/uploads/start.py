"""`training.start_from` that names an upload: a URL of a bucket, or a path below which COMPLETE is.

It is fetched into a hidden folder of the experiment, named by its contents, and verified each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wf_formats.errors import RequestError
from wf_stores import Store, download_folder, is_bucket_url, open_store, parse_location
from wf_stores.errors import StoreError
from wf_stores.layout import COMPLETE
from wf_stores.records import read_manifest
from wrinklefree.config.root import TrainConfig, run_path
from wrinklefree.errors import RunError


def is_upload(start_from: str) -> bool:
    return is_bucket_url(start_from) or (Path(start_from) / COMPLETE).is_file()


def check_upload_is_there(start_from: str) -> None:
    """Raises: RunError where there is no complete upload, or no access."""
    with _about_the_start():
        read_manifest(*_opened(start_from))


def fetched(config: TrainConfig, start_from: str) -> Path:
    """The folder that the upload was fetched into. Raises: RunError."""
    with _about_the_start():
        store, name = _opened(start_from)
        digest = read_manifest(store, name).digest
        folder = run_path(config, config.training.stage).with_name(f".start-{digest[:16]}")
        download_folder(store, name, folder)
    return folder


def _opened(start_from: str) -> tuple[Store, str]:
    location, name = parse_location(start_from).split()
    return open_store(location), name


@contextmanager
def _about_the_start() -> Iterator[None]:
    try:
        yield
    except (StoreError, RequestError) as error:
        raise RunError(f"training.start_from: {error}") from error
