"""A job's folder `runs/<id>/`; each file has one writer and is written atomically.

- `job.json`: what was asked for; written by `wf` before the start, never changed.
- `process.json`: supervisor and job process; written by the supervisor.
- `exit.json`: how it ended; written by the supervisor. No `exit.json` and no process: lost.
- `log.txt`: stdout and stderr of both.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wf_deployer.backends.base import JobSpec, JobState
from wf_deployer.backends.local.identity import ProcessIdentity, is_alive
from wf_deployer.errors import CommandError
from wf_deployer.workspace import workspace_root
from wf_formats.atomic import atomic_write_json
from wf_formats.json_file import read_value

FORMAT = 1
STARTING_S = 15.0
"""A job younger than this without process.json is starting, an older one is lost."""


@dataclass(frozen=True)
class LocalSpec(JobSpec):
    """What was asked for, of which machine.

    Attributes:
        token: Random mark by which the job's processes are recognised.
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


class JobFolder:
    """A job's folder, read anew at each access."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log.txt"

    @property
    def spec(self) -> LocalSpec:
        """Raises: CommandError if job.json is missing, damaged or of another format."""
        values = read_value(self.folder / "job.json", CommandError)
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise CommandError(f"{self.folder / 'job.json'} is not a job record of format {FORMAT}")
        return LocalSpec(**values)

    @property
    def supervisor(self) -> ProcessIdentity | None:
        return self._process("supervisor")

    @property
    def child(self) -> ProcessIdentity | None:
        return self._process("child")

    @property
    def exit(self) -> Exit | None:
        path = self.folder / "exit.json"
        return Exit(**read_value(path, CommandError)) if path.is_file() else None

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
        atomic_write_json(self.folder / "process.json", value)

    def write_exit(self, end: Exit) -> None:
        atomic_write_json(self.folder / "exit.json", asdict(end))

    def _process(self, name: str) -> ProcessIdentity | None:
        path = self.folder / "process.json"
        value: dict[str, Any] | None = read_value(path, CommandError)[name] if path.is_file() else None
        return ProcessIdentity(**value) if value else None


def _ended(end: Exit) -> JobState:
    if end.returncode == 0:
        return JobState.finished
    return JobState.cancelled if end.cancelled else JobState.failed


def runs_folder() -> Path:
    """`$WF_RUNS_DIR`, else `<workspace>/runs`."""
    return Path(os.environ.get("WF_RUNS_DIR") or workspace_root() / "runs")


def list_jobs() -> list[JobFolder]:
    """All jobs, oldest first."""
    folder = runs_folder()
    return [JobFolder(path.parent) for path in sorted(folder.glob("*/job.json"))]
