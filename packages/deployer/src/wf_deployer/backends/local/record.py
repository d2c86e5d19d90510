"""A job of this machine: its folder has `process.json` besides, written by the supervisor.

It names supervisor and job process. Without `exit.json` and without processes a job is finished if the run
has its result (the supervisor was killed, not the job), else lost. A job that reads files and leaves results
works in `scratch.<letters>` there and removes it; where it was killed, whoever looks at it next does.
"""

from __future__ import annotations

import shutil
import socket
import time
from dataclasses import asdict
from pathlib import Path

from wf_deployer.backends.base import JobState
from wf_deployer.backends.fields import from_json, is_there
from wf_deployer.backends.local.identity import ProcessIdentity, is_alive
from wf_deployer.backends.record import JobFolder
from wf_deployer.errors import CommandError
from wf_formats.atomic import atomic_write_json
from wf_formats.json_file import read_value
from wf_formats.run_files import is_complete

SCRATCH = "scratch."
STARTING_S = 15.0
"""A job younger than this without process.json is starting, an older one is lost."""


class LocalJob(JobFolder):
    """The folder of a job of this machine, read anew at each access."""

    @property
    def supervisor(self) -> ProcessIdentity | None:
        return self._process("supervisor")

    @property
    def child(self) -> ProcessIdentity | None:
        return self._process("child")

    @property
    def state(self) -> JobState:
        if (end := self.exit) is not None:
            return end.state
        if any(process is not None and is_alive(process) for process in (self.supervisor, self.child)):
            return JobState.running
        if (end := self.exit) is not None:  # it ended between the two looks
            return end.state
        record = self.record
        if self.supervisor is None and time.time() - record.created_s < STARTING_S:
            return JobState.starting
        has_result = record.run_folder is not None and is_complete(Path(record.run_folder))
        return JobState.finished if has_result else JobState.lost

    def remove_scratch(self) -> None:
        """Of a job that is over; of one on another machine only that knows."""
        if self.record.host == socket.gethostname() and self.state.is_over:
            for path in self.folder.glob(f"{SCRATCH}*"):
                shutil.rmtree(path, ignore_errors=True)

    def write_processes(self, supervisor: ProcessIdentity, child: ProcessIdentity | None) -> None:
        value = {"supervisor": asdict(supervisor), "child": asdict(child) if child else None}
        atomic_write_json(self.folder / "process.json", value)

    def _process(self, name: str) -> ProcessIdentity | None:
        path = self.folder / "process.json"
        if not is_there(path):
            return None
        processes = read_value(path, CommandError)
        if not isinstance(processes, dict) or name not in processes:
            raise CommandError(f"{path} is damaged: {name} is missing")
        value = processes[name]
        return None if value is None else from_json(ProcessIdentity, value, path)
