"""Starting a job that survives the terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from wf_deployer.backends.base import JobSpec
from wf_deployer.backends.local.record import SCRATCH, LocalJob
from wf_deployer.backends.record import runs_folder
from wf_deployer.backends.work import program_here
from wf_deployer.errors import CommandError
from wf_formats.run_files import last_lines

START_TIMEOUT_S = 30.0
_SUPERVISOR = "wf_deployer.backends.local.supervise"


class _Detached(subprocess.Popen[bytes]):
    """Outlives this process: that it runs when nobody holds it any more is no fault to warn of."""

    def __del__(self) -> None:
        """Not Popen's, which does."""


def launch(spec: JobSpec) -> LocalJob:
    """Writes the record and starts the supervisor in a session of its own.

    Returns once the supervisor has recorded itself, so that the job can be found and cancelled. The
    supervisor gets the command by its standard input: the record has it without secrets.

    Raises:
        CommandError: the supervisor did not start.
    """
    job = LocalJob.create(spec)
    record = job.record
    with job.log.open("ab") as log:
        supervisor = _Detached(
            [sys.executable, "-m", _SUPERVISOR, str(job.folder.resolve()), record.token],
            cwd=record.cwd,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    _hand_over(supervisor, program_here(spec, scratch_of(spec)))
    _wait_until_recorded(job, supervisor)
    return job


def scratch_of(spec: JobSpec) -> Path:
    """Where a job works, in its folder: its end can be seen there."""
    return runs_folder().absolute() / spec.id / SCRATCH


def _hand_over(supervisor: subprocess.Popen[bytes], command: list[str]) -> None:
    assert supervisor.stdin is not None
    with suppress(BrokenPipeError), supervisor.stdin as pipe:  # it ended at once: its log says why
        pipe.write(json.dumps(command).encode())


def _wait_until_recorded(job: LocalJob, supervisor: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while job.child is None and job.exit is None:
        if supervisor.poll() is not None and job.exit is None:
            tail = "\n".join(last_lines(job.log, 10))
            raise CommandError(f"the job did not start; {job.log} ends with:\n{tail}")
        if time.monotonic() > deadline_s:
            raise CommandError(
                f"the job's supervisor said nothing for {START_TIMEOUT_S:.0f} s; see {job.log}"
            )
        time.sleep(0.02)
