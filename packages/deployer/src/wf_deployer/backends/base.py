"""What a job is, and what every back end can do with it."""

from __future__ import annotations

import math
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from wf_deployer.backends.service import Service
from wf_deployer.errors import CommandRequestError
from wf_formats.printable import printable

_GPU = re.compile(
    r"(?P<kind>[A-Za-z][\w.-]{0,63})(:(?P<count>[1-9]\d{0,2}))?|(?P<any>[1-9]\d{0,2})", re.ASCII
)
_TIME = re.compile(r"(?P<number>[1-9]\d{0,6})(?P<unit>s|m|min|h|d)", re.ASCII)
_UNIT_S = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_MOST_NODES = 10_000
_MOST_CPUS = 4096
_MOST_S = 365 * 86400


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
        gpu: Of each node: `H100:8`, `H100` (one), `8` (of any kind), or several of them as a list, the most
            wanted first (`H100:8,A100-80GB:8`); None: CPUs.
        num_nodes: Machines.
        cpus: Cores of each node; None: what the back end gives by default.
        spot: Machines that may be taken away at any time.
        time_s: Seconds after which the job is stopped; None: what the back end gives by default.
        allow_gcp_gpu: GPUs may be rented on GCP.

    Raises:
        CommandRequestError: a value that cannot be; names it.
    """

    gpu: str | None = None
    num_nodes: int = 1
    spot: bool = False
    cpus: int | None = None
    time_s: int | None = None
    allow_gcp_gpu: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.num_nodes <= _MOST_NODES:
            raise CommandRequestError(f"--num-nodes {self.num_nodes}: give 1 to {_MOST_NODES}")
        if self.cpus is not None and not 1 <= self.cpus <= _MOST_CPUS:
            raise CommandRequestError(f"--cpus {self.cpus}: give 1 to {_MOST_CPUS}, or leave it out")
        if self.time_s is not None and not 1 <= self.time_s <= _MOST_S:
            raise CommandRequestError(f"--time of {self.time_s} s: give 1 s to 365 d, or leave it out")
        if len({gpus.count for gpus in self.gpu_choices}) > 1:
            raise CommandRequestError(
                f"--gpu {self.gpu}: as many of each, since a process is started for each (H100:8,A100-80GB:8)"
            )

    @property
    def gpu_choices(self) -> list[Gpus]:
        """Of each node: any of these, the most wanted first; as many of each."""
        return [] if self.gpu is None else [_gpus(choice) for choice in self.gpu.split(",")]

    @property
    def gpus(self) -> Gpus | None:
        """Of each node: the most wanted."""
        return next(iter(self.gpu_choices), None)

    @property
    def processes_per_node(self) -> int:
        """One for each GPU; one on CPUs."""
        return 1 if self.gpus is None else self.gpus.count

    @property
    def num_processes(self) -> int:
        return self.num_nodes * self.processes_per_node


def _gpus(text: str) -> Gpus:
    if (match := _GPU.fullmatch(text)) is None:
        raise CommandRequestError(
            f"--gpu {printable(text)!r} is no GPU; write KIND:NUMBER (H100:8, up to 999), or NUMBER"
        )
    return Gpus(match["kind"], int(match["count"] or match["any"] or 1))


def seconds_of(time_limit: str, option: str = "--time") -> int:
    """`90s`, `30m`, `8h`, `2d` in seconds. Raises: CommandRequestError for anything else."""
    if (match := _TIME.fullmatch(time_limit)) is None:
        raise CommandRequestError(
            f"{option} {printable(time_limit)!r} is no time; write a number with s, m, h or d, such as 8h"
        )
    return int(match["number"]) * _UNIT_S[match["unit"]]


@dataclass(frozen=True)
class JobSpec:
    """What was asked for.

    Attributes:
        kind: The application, such as "train".
        command: Program and arguments.
        cwd: Folder that the command runs in.
        run_folder: Where the job writes its results, if known (training's run folder).
        upload: URL below which it uploads its checkpoints and its result, or its results, if it does.
        start_from: The checkpoint that it starts from, if it does: a folder, or the URL of an upload.
        cloud: Back end that runs it.
        resources: What it asks of machines.
        service: Of a server that goes on until it is cancelled: what it serves, in how many copies.
        inputs: Of a job that leaves results and ends (work.py): what it reads, each as its command has it: a
            path of this machine, a URL or a `hub:` id; of a folder the files that are needed, none: all.
        created_s: Seconds since 1970.
    """

    id: str
    kind: str
    stage: str
    experiment: str
    command: list[str]
    cwd: str
    run_folder: str | None = None
    upload: str | None = None
    start_from: str | None = None
    cloud: str = "local"
    resources: Resources = Resources()
    service: Service | None = None
    inputs: dict[str, list[str]] | None = None
    created_s: float = field(default_factory=time.time)

    @property
    def name(self) -> str:
        """Unique; what those who run it call it."""
        return f"wf-{self.id}"

    @property
    def resumes(self) -> bool:
        """Whether it goes on where it was asked to stop; else it begins anew."""
        return self.inputs is None


@dataclass(frozen=True)
class JobStatus:
    """How a job is.

    Attributes:
        step: The last optimizer step.
        log: Where its output is kept.
        problem: What its user should know of its files, in one line.
        url: Where a service answers.
    """

    state: JobState
    log: str
    step: int | None = None
    exit_code: int | None = None
    ended_s: float | None = None
    problem: str | None = None
    url: str | None = None


class Backend(Protocol):
    """A place where jobs run. `job_id` names a folder `runs/<id>/` whose record names this back end."""

    def check(self, resources: Resources) -> None:
        """Raises: CommandRequestError for what it cannot give, or if it cannot be used here; names it."""

    def preview(self, spec: JobSpec) -> str:
        """What `submit` would do, in its own words; checked, and nothing is submitted.

        Raises:
            CommandRequestError: it would be refused.
        """

    def results(self, spec: JobSpec) -> str | None:
        """Where the job's results will be, in words for its user."""

    def submit(self, spec: JobSpec) -> None:
        """Starts a job; returns when it can be found and cancelled.

        Raises:
            CommandError: it did not start.
        """

    def status(self, job_id: str) -> JobStatus:
        """How the job is now. Raises: CommandError if its record is damaged."""

    def look(self, job_ids: Sequence[str], until_s: float = math.inf) -> Callable[[str], JobStatus]:
        """Asks whoever runs them once for all of these jobs.

        Args:
            until_s: By `time.monotonic`; what has not been answered by then is `unknown`.
        Returns:
            What tells the status of each of them, as `status` does.
        """

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


@dataclass(frozen=True)
class NoUpload:
    """Why there is no upload. Attributes: is_missing: the store says so, else it did not answer; reason."""

    is_missing: bool
    reason: str


class JobBackend(Backend, Protocol):
    """One whose jobs end: training, and those of work.py."""

    def output_of(self, job_id: str, given: str | None, cwd: str) -> str:
        """Below what a job of work.py leaves its results.

        Args:
            given: `--output`.
            cwd: Of the command.

        Raises: CommandRequestError for a place that would not outlive the job, or that is missing.
        """

    def fetch(self, job_id: str, there: Path) -> NoUpload | None:
        """Makes `there` the results of a job of work.py, verified. Returns: why there are none (yet)."""


def new_job_id(stage: str) -> str:
    """Sorts by time; readable; unique within a second by a random suffix."""
    label = re.sub(r"[^a-z0-9]+", "-", stage.lower())
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{label}-{secrets.token_hex(2)}"
