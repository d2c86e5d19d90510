"""How a job ended, from beside its uploads: its machines, and their logs, are gone soon afterwards."""

from __future__ import annotations

import math
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

from wf_deployer.backends.base import JobState, NoUpload
from wf_deployer.backends.fields import from_json, is_there
from wf_deployer.backends.looking import time_left_s
from wf_deployer.backends.record import Exit, JobFolder
from wf_deployer.backends.sky.script import STOPPED_BY_TERM
from wf_deployer.backends.stored import GET_TIMEOUT_S, get_upload
from wf_deployer.errors import CommandError
from wf_formats.atomic import atomic_write_json
from wf_formats.json_file import read_value

_LAST_STATE = "last_state.json"


def guessed_exit(job: JobFolder, state: JobState) -> Exit:
    """Of a job that left nothing, by what SkyPilot says of it."""
    returncode = {JobState.finished: 0, JobState.cancelled: STOPPED_BY_TERM}.get(state, 1)
    return Exit(returncode, job.was_cancelled or state is JobState.cancelled, time.time())


def remember(job: JobFolder, state: JobState) -> None:
    """Keeps SkyPilot's word of an end while the store does not answer; it forgets it with the machines."""
    atomic_write_json(job.folder / _LAST_STATE, state)


def remembered(job: JobFolder) -> JobState | None:
    """Raises: CommandError if the file is damaged."""
    path = job.folder / _LAST_STATE
    if not is_there(path):
        return None
    value = read_value(path, CommandError)
    if value not in list(JobState):
        raise CommandError(f"{path} is damaged: it is {value!r:.60}, not a state")
    return JobState(value)


def upload_of(job: JobFolder) -> str:
    """Raises: CommandError if the record names none."""
    if (upload := job.record.upload) is None:
        raise CommandError(f"{job.folder / 'job.json'} is damaged: a job of SkyPilot has an upload")
    return upload


def end_url(upload: str, job_id: str) -> str:
    """Of the folder that the job's script puts there (script.py)."""
    return f"{upload.rstrip('/')}/wf-jobs/{job_id}"


def fetch_end(job: JobFolder, until_s: float = math.inf) -> NoUpload | None:
    """Makes `exit.json` and `log.txt` of the job's folder those that the machines left. None: done.

    Args:
        until_s: By `time.monotonic`, when the store has to have answered.

    Raises:
        CommandError: what lies there is damaged.
    """
    record, there, upload = job.record, job.folder / "end", upload_of(job)
    if "://" not in upload and not Path(upload).is_dir():
        return NoUpload(False, f"there is no folder {upload} on this machine")
    if (
        missing := get_upload(end_url(upload, record.id), there, time_left_s(until_s, GET_TIMEOUT_S))
    ) is not None:
        return missing
    end = from_json(Exit, read_value(there / "exit.json", CommandError), there / "exit.json")
    os.replace(there / "log.txt", job.log)
    was_asked = end.returncode != 0 and job.was_cancelled
    job.write_exit(replace(end, cancelled=was_asked))
    shutil.rmtree(there)
    return None
