"""Starting a job that survives the terminal."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import asdict

from wf_deployer.errors import CommandError
from wf_deployer.files import last_lines, write_json
from wf_deployer.jobs.record import Job, JobSpec, runs_folder
from wf_deployer.workspace import module_command

START_TIMEOUT_S = 30.0
_detached: list[subprocess.Popen[bytes]] = []
"""Supervisors outlive this process; kept, since Popen warns when collected before its process ends."""


def launch(spec: JobSpec) -> Job:
    """Writes the record and starts the supervisor in a session of its own.

    Returns once the supervisor has recorded itself, so that the job can be found and cancelled.

    Raises:
        CommandError: the supervisor did not start.
    """
    folder = runs_folder() / spec.id
    folder.mkdir(parents=True)
    job = Job(folder)
    write_json(folder / "job.json", asdict(spec))
    with job.log.open("ab") as log:
        supervisor = subprocess.Popen(
            [*module_command("wf_deployer.supervise"), str(folder.resolve()), spec.token],
            cwd=spec.cwd,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    _detached.append(supervisor)
    _wait_until_recorded(job, supervisor)
    return job


def _wait_until_recorded(job: Job, supervisor: subprocess.Popen[bytes]) -> None:
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
