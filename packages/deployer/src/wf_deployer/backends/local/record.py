"""A job's folder `runs/<id>/`; each file has one writer and is written atomically.

- `job.json`: what was asked for, secrets left out; written by `wf` before the start, never changed.
- `process.json`: supervisor and job process; written by the supervisor.
- `exit.json`: how it ended; written by the supervisor. No `exit.json` and no process: finished if the
  run has its result (the supervisor was killed, not the job), else lost.
- `log.txt`: stdout and stderr of both.

The folder is its user's alone. Records are read as what anybody may have changed: each value is checked.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from wf_deployer.backends.base import JobSpec, JobState
from wf_deployer.backends.local.fields import from_json
from wf_deployer.backends.local.identity import ProcessIdentity, is_alive
from wf_deployer.errors import CommandError
from wf_deployer.workspace import workspace_root
from wf_formats.atomic import atomic_write_json
from wf_formats.json_file import read_value
from wf_formats.run_files import is_complete

FORMAT = 1
_TOKEN = re.compile(r"[0-9a-f]{32}")
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
        path = self.folder / "job.json"
        values = read_value(path, CommandError)
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise CommandError(f"{path} is not a job record of format {FORMAT}")
        spec = from_json(LocalSpec, values, path)
        if not _TOKEN.fullmatch(spec.token):  # anything shorter or likelier may be another process's
            raise CommandError(f"{path} is damaged: token is not 32 hexadecimal digits")
        return spec

    @property
    def supervisor(self) -> ProcessIdentity | None:
        return self._process("supervisor")

    @property
    def child(self) -> ProcessIdentity | None:
        return self._process("child")

    @property
    def exit(self) -> Exit | None:
        path = self.folder / "exit.json"
        return from_json(Exit, read_value(path, CommandError), path) if path.is_file() else None

    @property
    def state(self) -> JobState:
        if (end := self.exit) is not None:
            return _ended(end)
        if any(process is not None and is_alive(process) for process in (self.supervisor, self.child)):
            return JobState.running
        if (end := self.exit) is not None:  # it ended between the two looks
            return _ended(end)
        spec = self.spec
        if self.supervisor is None and time.time() - spec.created_s < STARTING_S:
            return JobState.starting
        has_result = spec.run_folder is not None and is_complete(Path(spec.run_folder))
        return JobState.finished if has_result else JobState.lost

    def write_processes(self, supervisor: ProcessIdentity, child: ProcessIdentity | None) -> None:
        value = {"supervisor": asdict(supervisor), "child": asdict(child) if child else None}
        atomic_write_json(self.folder / "process.json", value)

    def write_exit(self, end: Exit) -> None:
        atomic_write_json(self.folder / "exit.json", asdict(end))

    def _process(self, name: str) -> ProcessIdentity | None:
        path = self.folder / "process.json"
        if not path.is_file():
            return None
        processes = read_value(path, CommandError)
        if not isinstance(processes, dict) or name not in processes:
            raise CommandError(f"{path} is damaged: {name} is missing")
        value = processes[name]
        return None if value is None else from_json(ProcessIdentity, value, path)


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
