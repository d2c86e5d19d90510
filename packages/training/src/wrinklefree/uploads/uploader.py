"""Uploads of a run's checkpoints by a thread of their own, while it trains.

One goes at a time and the newest waits; one that waits is passed over when a newer one is there. A failure is
a warning, and the next checkpoint is the next try. The end of the run waits for its last upload; that one's
failure is its error.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from wf_formats.boundary import explained
from wf_formats.errors import UserError
from wf_stores import upload_folder
from wf_stores.errors import AnotherUploadError
from wrinklefree.errors import RunError
from wrinklefree.uploads.run_uploads import RunUploads

LOG = logging.getLogger("wrinklefree")


class UploadError(RunError):
    """The last upload of a run failed; what it has made is on this machine."""


class _StoppedError(Exception):
    """The run ended by an error, so its uploads end too."""


class Uploader:
    def __init__(self, uploads: RunUploads) -> None:
        self._uploads = uploads
        self._pool = ThreadPoolExecutor(1, "uploads")
        self._open: dict[Path, Future[None]] = {}
        """Those that are not done, oldest first."""
        self._failure: str | None = None
        self._stopping = threading.Event()
        self._sent = self._passed_over = self._failed = self._sent_bytes = 0
        self._seconds = 0.0

    @property
    def in_use(self) -> set[Path]:
        """Folders that are read, or will be."""
        self._open = {folder: future for folder, future in self._open.items() if not future.done()}
        return set(self._open)

    def offer(self, folder: Path) -> None:
        """Uploads a folder as soon as the one before it is done, in place of any that waits.

        Raises: what was no failure of an upload but a fault of ours.
        """
        for waiting, future in list(self._open.items()):
            if future.done():
                future.result()
            elif future.cancel():
                self._passed_over += 1
            else:
                continue
            del self._open[waiting]
        self._open[folder] = self._pool.submit(self._upload, folder)

    def finish(self, last: Path) -> None:
        """Waits for the upload of `last`, offered before, and says what was uploaded in all.

        Raises: UploadError where it failed.
        """
        for future in self._open.values():
            future.result()
        LOG.info(
            "uploads to %s: %d sent (%.1f MB in %.0f s), %d passed over, %d failed",
            self._uploads.url,
            self._sent,
            self._sent_bytes / 1e6,
            self._seconds,
            self._passed_over,
            self._failed,
        )
        if self._failure is not None:
            raise UploadError(
                f"{self._failure}. {last} is kept on this machine; the same command uploads it, or "
                f"wf store put {last} {self._uploads.store.url}/{self._uploads.name_of(last)}"
            )

    def close(self) -> None:
        """Ends what is still open."""
        self._stopping.set()
        self._pool.shutdown(cancel_futures=True)

    def _upload(self, folder: Path) -> None:
        start_s = time.monotonic()
        try:
            self._sent_bytes += upload(self._uploads, folder, self._advance)
        except (UserError, OSError) as error:
            self._failure = f"the upload of {folder.name} failed: {_reason(error)}"
            self._failed += 1
            LOG.warning("%s; the next checkpoint is the next try", self._failure)
        except _StoppedError:
            LOG.warning("the upload of %s was stopped", folder.name)
        else:
            self._failure = None
            self._sent += 1
            self._prune()
        self._seconds += time.monotonic() - start_s

    def _prune(self) -> None:
        try:
            self._uploads.prune()
        except (UserError, OSError) as error:
            LOG.warning("older checkpoints at %s are still there: %s", self._uploads.url, _reason(error))

    def _advance(self, _num_bytes: int) -> None:
        if self._stopping.is_set():
            raise _StoppedError


def _reason(error: UserError | OSError) -> str:
    return explained(error) if isinstance(error, OSError) else str(error)


def upload(uploads: RunUploads, folder: Path, advance: Callable[[int], None] = lambda _: None) -> int:
    """Uploads a checkpoint or the result. Returns: bytes that were sent.

    What is complete there already is this run's too, made by an earlier start of it or on another machine:
    equal in its weights, not in the time that it took, so it stays.

    Raises: UserError, OSError.
    """
    try:
        done = upload_folder(folder, uploads.store, uploads.name_of(folder), advance)
    except AnotherUploadError as error:
        LOG.warning("%s was uploaded before, by another start of this run: %s", folder.name, error)
        return 0
    LOG.info("uploaded %s/%s (%.1f MB sent)", uploads.url, folder.name, done.sent_bytes / 1e6)
    return done.sent_bytes


@contextmanager
def uploading(uploads: RunUploads | None) -> Iterator[Uploader | None]:
    """The uploader of a run, ended with it; None where nothing is uploaded."""
    if uploads is None:
        yield None
        return
    uploader = Uploader(uploads)
    try:
        yield uploader
    finally:
        uploader.close()
