"""A job's folder `runs/<id>/`; each file has one writer and is written atomically.

- `job.json`: what was asked for; written by `wf` before the start, never changed.
- `process.json`: supervisor and job process; written by the supervisor.
- `exit.json`: how it ended; written by the supervisor. No `exit.json` and no process: lost.
- `log.txt`: stdout and stderr of both.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import time
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from wf_deployer.errors import CommandError
from wf_deployer.files import read_json, write_json
from wf_deployer.identity import ProcessIdentity, is_alive
from wf_deployer.workspace import workspace_root

FORMAT = 1
STARTING_S = 15.0
"""A job younger than this without process.json is starting, an older one is lost."""


class JobState(StrEnum):
    starting = "starting"
    running = "running"
    finished = "finished"
    failed = "failed"
    cancelled = "cancelled"
    lost = "lost"


@dataclass(frozen=True)
class JobSpec:
    """What was asked for.

    Attributes:
        token: Random mark by which the job's processes are recognised.
        run_folder: Where the job writes its results, if known (training's run folder).
    """

    id: str
    kind: str
    stage: str
    experiment: str
    command: list[str]
    cwd: str
    run_folder: str | None = None
    created_s: float = field(default_factory=time.time)
    host: str = field(default_factory=socket.gethostname)
    token: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    format: int = FORMAT


@dataclass(frozen=True)
class Exit:
    """`returncode` as in subprocess (minus the signal's number); `cancelled` if `wf cancel` asked."""

    returncode: int
    cancelled: bool
    ended_s: float


class Job:
    """A job's folder, read anew at each access."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log.txt"

    @property
    def spec(self) -> JobSpec:
        """Raises: CommandError if job.json is missing, damaged or of another format."""
        values = read_json(self.folder / "job.json")
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise CommandError(f"{self.folder / 'job.json'} is not a job record of format {FORMAT}")
        return JobSpec(**values)

    @property
    def supervisor(self) -> ProcessIdentity | None:
        return self._process("supervisor")

    @property
    def child(self) -> ProcessIdentity | None:
        return self._process("child")

    @property
    def exit(self) -> Exit | None:
        path = self.folder / "exit.json"
        return Exit(**read_json(path)) if path.is_file() else None

    @property
    def state(self) -> JobState:
        if (end := self.exit) is not None:
            return _ended(end)
        if any(process is not None and is_alive(process) for process in (self.supervisor, self.child)):
            return JobState.running
        if (end := self.exit) is not None:  # it ended between the two looks
            return _ended(end)
        young = time.time() - self.spec.created_s < STARTING_S
        return JobState.starting if young and self.supervisor is None else JobState.lost

    def write_processes(self, supervisor: ProcessIdentity, child: ProcessIdentity | None) -> None:
        value = {"supervisor": asdict(supervisor), "child": asdict(child) if child else None}
        write_json(self.folder / "process.json", value)

    def write_exit(self, end: Exit) -> None:
        write_json(self.folder / "exit.json", asdict(end))

    def _process(self, name: str) -> ProcessIdentity | None:
        path = self.folder / "process.json"
        value: dict[str, Any] | None = read_json(path)[name] if path.is_file() else None
        return ProcessIdentity(**value) if value else None


def _ended(end: Exit) -> JobState:
    if end.returncode == 0:
        return JobState.finished
    return JobState.cancelled if end.cancelled else JobState.failed


def runs_folder() -> Path:
    """`$WF_RUNS_DIR`, else `<workspace>/runs`."""
    return Path(os.environ.get("WF_RUNS_DIR") or workspace_root() / "runs")


def list_jobs() -> list[Job]:
    """All jobs, oldest first."""
    folder = runs_folder()
    return [Job(path.parent) for path in sorted(folder.glob("*/job.json"))]


def find_job(name: str | None) -> Job:
    """The job whose id starts with `name`; None: the newest.

    Raises:
        CommandError: none or several match.
    """
    jobs = list_jobs()
    if not jobs:
        raise CommandError(f"no jobs in {runs_folder()}; `wf train -s 1` starts one")
    if name is None:
        return jobs[-1]
    matches = [job for job in jobs if job.folder.name.startswith(name)]
    exact = [job for job in matches if job.folder.name == name]
    if len(exact or matches) == 1:
        return (exact or matches)[0]
    if not matches:
        raise CommandError(f"no job {name!r} in {runs_folder()}; `wf runs` lists them")
    raise CommandError(f"{name!r} fits {', '.join(job.folder.name for job in matches)}; give more of the id")


def new_job_id(stage: str) -> str:
    """Sorts by time; readable; unique within a second by a random suffix."""
    label = re.sub(r"[^a-z0-9]+", "-", stage.lower())
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{label}-{secrets.token_hex(2)}"
