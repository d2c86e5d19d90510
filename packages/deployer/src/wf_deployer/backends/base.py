"""What a job is, and what every back end can do with it."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class JobState(StrEnum):
    starting = "starting"
    running = "running"
    finished = "finished"
    failed = "failed"
    cancelled = "cancelled"
    lost = "lost"
    damaged = "damaged"
    """Its record cannot be read."""

    @property
    def is_over(self) -> bool:
        return self not in (JobState.starting, JobState.running)


@dataclass(frozen=True)
class JobSpec:
    """What was asked for.

    Attributes:
        kind: The application, such as "train".
        command: Program and arguments.
        cwd: Folder that the command runs in.
        run_folder: Where the job writes its results, if known (training's run folder).
        created_s: Seconds since 1970.
    """

    id: str
    kind: str
    stage: str
    experiment: str
    command: list[str]
    cwd: str
    run_folder: str | None = None
    created_s: float = field(default_factory=time.time)


@dataclass(frozen=True)
class JobStatus:
    """How a job is.

    Attributes:
        step: The last optimizer step.
        log: Where its output is kept.
        problem: What its user should know of its files, in one line.
    """

    state: JobState
    log: str
    step: int | None = None
    exit_code: int | None = None
    ended_s: float | None = None
    problem: str | None = None


class Backend(Protocol):
    """A place where jobs run; `job_id` is one of `job_ids`."""

    @property
    def place(self) -> str:
        """Where its jobs are recorded, for messages."""

    def submit(self, spec: JobSpec) -> None:
        """Starts a job; returns when it can be found and cancelled.

        Raises:
            CommandError: it did not start.
        """

    def job_ids(self) -> Sequence[str]:
        """Ids of all its jobs, as `new_job_id` made them."""

    def spec(self, job_id: str) -> JobSpec:
        """What was asked for. Raises: CommandError if the record is damaged."""

    def status(self, job_id: str) -> JobStatus:
        """How the job is now."""

    def logs(self, job_id: str, last: int | None, follow: bool) -> Iterator[str]:
        """Pieces of the job's output as they are: all, or the `last` lines; with `follow` until it ends."""

    def cancel(self, job_id: str, timeout_s: float, kill: bool) -> JobState:
        """Asks the job to stop, waits, and returns its state then.

        Args:
            timeout_s: Time to stop by itself.
            kill: End it by force when the time is over.
        Raises:
            CommandError: it has ended, or cannot be stopped from here.
        """


def new_job_id(stage: str) -> str:
    """Sorts by time; readable; unique within a second by a random suffix."""
    label = re.sub(r"[^a-z0-9]+", "-", stage.lower())
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{label}-{secrets.token_hex(2)}"
