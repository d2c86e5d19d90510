"""Uploads that jobs have left in a store, as the store's application gives them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from wf_deployer.backends.base import NoUpload
from wf_deployer.backends.looking import late
from wf_deployer.errors import CommandRequestError
from wf_formats.printable import printable

GET_TIMEOUT_S = 60.0


def get_upload(url: str, there: Path, timeout_s: float = GET_TIMEOUT_S) -> NoUpload | None:
    """Makes `there` a complete upload, every file verified; None: done. What was there is removed.

    By the application, since stores are a library of applications.
    """
    if timeout_s == 0:
        return NoUpload(False, f"the time is over before {url} was asked; look again")
    shutil.rmtree(there, ignore_errors=True)  # of a look that was interrupted
    get = ["get", url, str(there), "--timeout", "20", "--if-there"]
    command = [sys.executable, "-m", "wf_stores.main", *get]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return NoUpload(False, late(url, timeout_s))
    if done.returncode == 0 and there.is_dir():
        return None
    words = printable(" ".join((done.stdout if done.returncode == 0 else done.stderr).split()))
    return NoUpload(done.returncode == 0, words.removeprefix("error: "))


def require_place(url: str, name: str) -> None:
    """Before a job is submitted that leaves an upload `name` below a store's URL.

    Raises: CommandRequestError for a bucket that is not there, or that this machine may not ask.
    """
    with tempfile.TemporaryDirectory() as folder:
        missing = get_upload(f"{url.rstrip('/')}/{name}", Path(folder, "none"), GET_TIMEOUT_S)
    if missing is not None and not missing.is_missing:
        raise CommandRequestError(f"nothing was submitted: {missing.reason}")
