"""`training.start_from` that names an upload: a URL of a bucket, or a path below which its COMPLETE is.

It is fetched into a hidden folder of the experiment, `.start-<digest>/checkpoint`, and verified each time.
Its manifest is read once; what is asked of it later, while the run goes, is answered from that. Runs of one
experiment that start from the same upload share it. It goes when a run that has it is complete, or was
refused, and no other has it; it stays after a signal, a crash, a connection that broke, from which the same
command goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from wf_formats.errors import RequestError, UserError
from wf_formats.run_files import MANIFEST_FILE
from wf_stores import Store, download_folder, is_bucket_url, open_store, parse_location
from wf_stores.errors import DamagedUploadError, RefusedError, StoreError, UnavailableError
from wf_stores.held import held, remove_held
from wf_stores.manifest import Manifest
from wf_stores.records import complete_digest, read_manifest
from wrinklefree.config.errors import ConfigError
from wrinklefree.config.root import TrainConfig, run_path
from wrinklefree.config.training import ContinuingConfig
from wrinklefree.errors import RunError

if TYPE_CHECKING:
    from wrinklefree.run_folder import RunFolder


_HELD: dict[str, Manifest] = {}
"""By `training.start_from`, of runs that are going on in this process (`holding_start`)."""


def is_upload(start_from: str) -> bool:
    if is_bucket_url(start_from) or start_from in _HELD:
        return True
    try:
        store, name = _opened(start_from)
        return complete_digest(store, name) is not None
    except (RequestError, DamagedUploadError):  # no such path, or another file of that name
        return False


def check_upload_is_there(start_from: str) -> None:
    """Raises: ConfigError for no URL, no complete upload or no access, RunError for a store that fails."""
    _manifest(start_from)


def fetched_folder(config: TrainConfig, start_from: str) -> Path:
    """Where `holding_start` puts the upload. Raises: ConfigError, RunError."""
    return _folder(config, _manifest(start_from)) / "checkpoint"


def _folder(config: TrainConfig, manifest: Manifest) -> Path:
    return run_path(config, config.training.stage).with_name(f".start-{manifest.digest[:16]}")


def uploaded_digest(start_from: str) -> str:
    """What checkpoints/manifest.py gives for the folder that was uploaded, without fetching it.

    Raises: ConfigError; RunError where it is no checkpoint.
    """
    files = _manifest(start_from).files
    if MANIFEST_FILE not in files:
        raise RunError(f"training.start_from: {start_from} is no checkpoint: it has no {MANIFEST_FILE}")
    return files[MANIFEST_FILE].sha256


@contextmanager
def holding_start(config: TrainConfig, run: RunFolder) -> Iterator[None]:
    """Has the upload that a run starts from, if it does, on this machine as long as the run goes.

    Raises: ConfigError, RunError.
    """
    training = config.training
    start_from = training.start_from if isinstance(training, ContinuingConfig) else None
    if start_from is None or not is_upload(start_from) or (run.is_complete and not config.force):
        yield
        return
    with _read_once(start_from) as manifest, held(_folder(config, manifest), is_shared=True) as lock:
        target = fetched_folder(config, start_from)
        try:
            with _about_the_start():
                download_folder(*_opened(start_from), target, manifest=manifest)
            yield
        except BaseException as error:
            if _is_useless_after(error, run):
                remove_held(target.parent, lock)
            raise
        if run.is_complete:
            remove_held(target.parent, lock)


def _is_useless_after(error: BaseException, run: RunFolder) -> bool:
    """Whether the same command would not go on with it."""
    if run.is_complete:
        return True
    is_refused = isinstance(error, UserError) and not isinstance(error.__cause__, UnavailableError)
    return is_refused and not run.has_progress


def _opened(start_from: str) -> tuple[Store, str]:
    location, name = parse_location(start_from).split()
    return open_store(location), name


def _manifest(start_from: str) -> Manifest:
    if start_from in _HELD:
        return _HELD[start_from]
    with _about_the_start():
        return read_manifest(*_opened(start_from))


@contextmanager
def _read_once(start_from: str) -> Iterator[Manifest]:
    """The manifest, for whoever asks for it meanwhile."""
    manifest, is_first = _manifest(start_from), start_from not in _HELD
    _HELD[start_from] = manifest
    try:
        yield manifest
    finally:
        if is_first:
            del _HELD[start_from]


@contextmanager
def _about_the_start() -> Iterator[None]:
    try:
        yield
    except (RefusedError, RequestError) as error:  # no credentials; no such bucket or upload; no URL
        raise ConfigError(f"training.start_from: {error}") from error
    except StoreError as error:
        raise RunError(f"training.start_from: {error}") from error
