"""A job's folder `runs/<id>/`, whatever runs the job; each file has one writer and is written atomically.

- `job.json`: what was asked for, secrets left out; written by `wf` before the start, never changed.
- `exit.json`: how it ended; written by whoever watches it where it runs.
- `cancel.json`: `wf cancel` has asked for its end, or is about to (`is_delivered` is false and `cancel.lock`
  held), of a job on machines of others.
- `log.txt`: its output.
- `output`: what a job of work.py left that sees this folder; `results`: what was fetched of any (by who
  holds `results.lock`; `results.json` has its digests).

Each back end adds files of its own. The folder is its user's alone. Records are read as what anybody may
have changed: each value is checked.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from wf_deployer.backends.base import JobSpec, JobState, Resources
from wf_deployer.backends.fields import from_json, is_there, read_from_json
from wf_deployer.backends.service import Service
from wf_deployer.errors import CommandError, CommandRequestError
from wf_deployer.workspace import workspace_root
from wf_formats.atomic import atomic_write_json
from wf_formats.errors import LoadError
from wf_formats.json_file import read_value
from wf_formats.locks import holding, is_locked
from wf_formats.run_files import STEP, read_metrics
from wf_formats.secrets import redacted_arguments

FORMAT = 1
TOKEN_VARIABLE = "WF_JOB_TOKEN"
"""Holds the token in a job's environment."""
TOKEN = re.compile(r"[0-9a-f]{32}")
_CANCEL_FILE, _CANCEL_LOCK = "cancel.json", "cancel.lock"


@dataclass(frozen=True)
class JobRecord(JobSpec):
    """What was asked for, and from where.

    Attributes:
        host: Machine on which `wf` was called.
        token: Random mark by which the job is recognised.
    """

    host: str = field(default_factory=socket.gethostname)
    token: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    format: int = FORMAT


@dataclass(frozen=True)
class Exit:
    """`returncode` as in subprocess (minus the signal's number); `cancelled` if `wf cancel` asked."""

    returncode: int
    cancelled: bool
    ended_s: float

    @property
    def state(self) -> JobState:
        if self.returncode == 0:
            return JobState.finished
        return JobState.cancelled if self.cancelled else JobState.failed


class JobFolder:
    """A job's folder, read anew at each access."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log.txt"

    @classmethod
    def create(cls, spec: JobSpec) -> Self:
        """A folder in `runs_folder()` with the record of a new job and an empty log."""
        record = replace(JobRecord(**vars(spec)), command=redacted_arguments(spec.command))
        folder = runs_folder() / record.id
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
        try:
            atomic_write_json(folder / "job.json", asdict(record))
            (folder / "log.txt").touch()
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return cls(folder)

    @classmethod
    def of(cls, job_id: str) -> Self:
        return cls(runs_folder() / job_id)

    @property
    def record(self) -> JobRecord:
        """Raises: CommandError if job.json is missing, damaged or of another format."""
        path = self.folder / "job.json"
        values = read_value(path, CommandError)
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise CommandError(f"{path} is not a job record of format {FORMAT}")
        record = from_json(JobRecord, values | _nested(values, path), path)
        if not TOKEN.fullmatch(record.token):  # anything shorter or likelier may be another job's
            raise CommandError(f"{path} is damaged: token is not 32 hexadecimal digits")
        return record

    @property
    def exit(self) -> Exit | None:
        return read_from_json(Exit, self.folder / "exit.json")

    def write_exit(self, end: Exit) -> None:
        atomic_write_json(self.folder / "exit.json", asdict(end))

    @property
    def was_cancelled(self) -> bool:
        """Whether `wf cancel` has asked for its end, or is about to; not if it could not be asked."""
        path = self.folder / _CANCEL_FILE
        if not is_there(path):
            return False
        mark = read_value(path, CommandError)
        if not isinstance(mark, dict):
            raise CommandError(f"{path} is damaged: it is {mark!r:.60}, not an object")
        return mark.get("is_delivered", True) is True or is_locked(self.folder / _CANCEL_LOCK)

    @contextmanager
    def asking_for_its_end(self) -> Iterator[Callable[[], None]]:
        """Around what ends the job: the mark is there before it, and goes again if that fails.

        A mark that a killed `wf` left in between does not count either.

        Yields: what to call when the job has been asked, if more is done that may fail.
        """
        path, asked_s = self.folder / _CANCEL_FILE, time.time()
        was_asked_before = self.was_cancelled

        def mark(is_delivered: bool) -> None:
            atomic_write_json(path, {"asked_s": asked_s, "is_delivered": is_delivered})

        with holding(self.folder / _CANCEL_LOCK):
            mark(was_asked_before)
            try:
                yield lambda: mark(True)
            except BaseException:
                if read_value(path, CommandError)["is_delivered"] is False:
                    path.unlink()
                raise
            mark(True)

    @property
    def last_step(self) -> tuple[int | None, str | None]:
        """Last step in the metrics of its run (None: no metrics yet), and what is wrong with them."""
        run_folder = self.record.run_folder
        try:
            rows = read_metrics(Path(run_folder)) if run_folder else []
            return (int(rows[-1][STEP]) if rows else None), None
        except (LoadError, ValueError, OverflowError, OSError) as error:  # int() of a step that is no number
            return None, str(error)


def _nested(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """Records from before there were resources or services have none."""
    found: dict[str, Any] = {}
    try:
        for name, kind in (("resources", Resources), ("service", Service)):
            if values.get(name) is not None:
                found[name] = from_json(kind, values[name], path)
    except CommandRequestError as error:
        raise CommandError(f"{path} is damaged: {error}") from error
    return found


def refuse_secrets(command: Sequence[str], kept: str, fix: str) -> None:
    """For back ends that let others read a job's command. Args: kept says so, fix what to do instead.

    Raises: CommandRequestError for an argument with a secret.
    """
    for shown, given in zip(redacted_arguments(command), command, strict=True):
        if shown != given:
            raise CommandRequestError(f"{shown}: {kept}, and this has a secret; {fix}")


def runs_folder() -> Path:
    """`$WF_RUNS_DIR`, else `<workspace>/runs`."""
    return Path(os.environ.get("WF_RUNS_DIR") or workspace_root() / "runs")


def default_output(job_id: str) -> str:
    """Where a job of work.py that sees this machine's files leaves its results, if nothing was said."""
    return str(runs_folder().absolute() / job_id / "output")


def results_folder(job_id: str) -> Path:
    """Where results are fetched to."""
    return runs_folder() / job_id / "results"


def job_ids() -> list[str]:
    """Ids of all jobs, oldest first."""
    return [path.parent.name for path in sorted(runs_folder().glob("*/job.json"))]
