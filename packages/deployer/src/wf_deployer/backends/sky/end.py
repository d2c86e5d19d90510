"""How a job ended, from beside its uploads: its machines, and their logs, are gone soon afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from wf_deployer.backends.fields import from_json
from wf_deployer.backends.record import Exit, JobFolder
from wf_deployer.errors import CommandError
from wf_formats.json_file import read_value
from wf_formats.printable import printable

_TIMEOUT_S = 60.0
_WRONG_REQUEST = 2


@dataclass(frozen=True)
class NoEnd:
    """Attributes: is_missing: it is not there, else it could not be asked for; reason: the store's words."""

    is_missing: bool
    reason: str


def end_url(upload: str, job_id: str) -> str:
    """Of the folder that the job's script puts there (script.py)."""
    return f"{upload.rstrip('/')}/wf-jobs/{job_id}"


def fetch_end(job: JobFolder) -> NoEnd | None:
    """Makes `exit.json` and `log.txt` of the job's folder those that the machines left. None: done.

    Raises:
        CommandError: what lies there is damaged.
    """
    record, there = job.record, job.folder / "end"
    if record.upload is None:
        raise CommandError(f"{job.folder / 'job.json'} is damaged: a job of SkyPilot has an upload")
    if (missing := _get(end_url(record.upload, record.id), there)) is not None:
        return missing
    end = from_json(Exit, read_value(there / "exit.json", CommandError), there / "exit.json")
    os.replace(there / "log.txt", job.log)
    was_asked = end.returncode != 0 and job.was_cancelled
    job.write_exit(replace(end, cancelled=was_asked))
    shutil.rmtree(there)
    return None


def _get(url: str, there: Path) -> NoEnd | None:
    """Downloads an upload; by the application, since stores are a library of applications."""
    command = [sys.executable, "-m", "wf_stores.main", "get", url, str(there), "--timeout", "20"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return NoEnd(False, f"{url} did not answer within {_TIMEOUT_S:.0f} s")
    if done.returncode != 0:
        words = printable(" ".join(done.stderr.split())).removeprefix("error: ")
        return NoEnd(done.returncode == _WRONG_REQUEST, words)
    return None
