"""What a job is, and what every back end can do with it."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from wf_deployer.errors import CommandRequestError
from wf_formats.printable import printable

_GPU = re.compile(
    r"(?P<kind>[A-Za-z][\w.-]{0,63})(:(?P<count>[1-9]\d{0,2}))?|(?P<any>[1-9]\d{0,2})", re.ASCII
)
_MOST_NODES = 10_000
_MOST_CPUS = 4096


class JobState(StrEnum):
    pending = "pending"
    """Waits for machines."""
    starting = "starting"
    running = "running"
    finished = "finished"
    failed = "failed"
    cancelled = "cancelled"
    lost = "lost"
    damaged = "damaged"
    """Its record cannot be read."""
    unknown = "unknown"
    """Whoever runs it cannot be asked now."""

    @property
    def is_over(self) -> bool:
        return self not in (JobState.pending, JobState.starting, JobState.running, JobState.unknown)


@dataclass(frozen=True)
class Gpus:
    """`H100:8` or `8`: kind (None: any) and number."""

    kind: str | None
    count: int


@dataclass(frozen=True)
class Resources:
    """What a job asks of machines.

    Attributes:
        gpu: Of each node: `H100:8`, `H100` (one), `8` (of any kind); None: CPUs.
        num_nodes: Machines.
        cpus: Cores of each node; None: what the back end gives by default.
        spot: Machines that may be taken away at any time.

    Raises:
        CommandRequestError: a value that cannot be; names it.
    """

    gpu: str | None = None
    num_nodes: int = 1
    spot: bool = False
    cpus: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.num_nodes <= _MOST_NODES:
            raise CommandRequestError(f"--num-nodes {self.num_nodes}: give 1 to {_MOST_NODES}")
        if self.cpus is not None and not 1 <= self.cpus <= _MOST_CPUS:
            raise CommandRequestError(f"--cpus {self.cpus}: give 1 to {_MOST_CPUS}, or leave it out")
        _ = self.gpus

    @property
    def gpus(self) -> Gpus | None:
        """Of each node."""
        if self.gpu is None:
            return None
        if (match := _GPU.fullmatch(self.gpu)) is None:
            raise CommandRequestError(
                f"--gpu {printable(self.gpu)!r} is no GPU; write KIND:NUMBER (H100:8, up to 999), or NUMBER"
            )
        return Gpus(match["kind"], int(match["count"] or match["any"] or 1))

    @property
    def processes_per_node(self) -> int:
        """One for each GPU; one on CPUs."""
        return 1 if self.gpus is None else self.gpus.count

    @property
    def num_processes(self) -> int:
        return self.num_nodes * self.processes_per_node


@dataclass(frozen=True)
class JobSpec:
    """What was asked for.

    Attributes:
        kind: The application, such as "train".
        command: Program and arguments.
        cwd: Folder that the command runs in.
        run_folder: Where the job writes its results, if known (training's run folder).
        cloud: Back end that runs it.
        resources: What it asks of machines.
        created_s: Seconds since 1970.
    """

    id: str
    kind: str
    stage: str
    experiment: str
    command: list[str]
    cwd: str
    run_folder: str | None = None
    cloud: str = "local"
    resources: Resources = Resources()
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
    """A place where jobs run. `job_id` names a folder `runs/<id>/` whose record names this back end."""

    def check(self, resources: Resources) -> None:
        """Raises: CommandRequestError for what it cannot give, or if it cannot be used here; names it."""

    def preview(self, spec: JobSpec) -> str:
        """What `submit` would do, in its own words; checked, and nothing is submitted.

        Raises:
            CommandRequestError: it would be refused.
        """

    def submit(self, spec: JobSpec) -> None:
        """Starts a job; returns when it can be found and cancelled.

        Raises:
            CommandError: it did not start.
        """

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
