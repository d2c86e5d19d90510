"""Background processes of this machine as a back end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from wf_deployer.backends.base import JobSpec, JobState, JobStatus
from wf_deployer.backends.local.cancel import cancel
from wf_deployer.backends.local.launch import launch
from wf_deployer.backends.local.record import JobFolder, list_jobs, runs_folder
from wf_formats.errors import LoadError
from wf_formats.run_files import STEP, last_lines, read_metrics

_POLL_S = 0.3


class LocalBackend:
    """Implements `Backend`."""

    @property
    def place(self) -> str:
        return str(runs_folder())

    def submit(self, spec: JobSpec) -> None:
        launch(spec)

    def job_ids(self) -> Sequence[str]:
        return [job.folder.name for job in list_jobs()]

    def spec(self, job_id: str) -> JobSpec:
        return _job(job_id).spec

    def status(self, job_id: str) -> JobStatus:
        job = _job(job_id)
        state, end = job.state, job.exit
        step, problem = _last_step(job.spec.run_folder)
        return JobStatus(
            state=state,
            log=str(job.log),
            step=step,
            exit_code=end.returncode if end else None,
            ended_s=end.ended_s if end else None,
            problem=problem,
        )

    def logs(self, job_id: str, last: int | None, follow: bool) -> Iterator[str]:
        job = _job(job_id)
        position = 0
        if last is not None:
            position = job.log.stat().st_size
            yield "".join(f"{line}\n" for line in last_lines(job.log, last))
        while True:
            is_over = job.state.is_over  # asked before reading, so that nothing written until then is missed
            text, position = _read(job, position)
            yield text
            if is_over or not follow:
                return
            time.sleep(_POLL_S)

    def cancel(self, job_id: str, timeout_s: float, kill: bool) -> JobState:
        return cancel(_job(job_id), timeout_s, kill)


def _job(job_id: str) -> JobFolder:
    return JobFolder(runs_folder() / job_id)


def _last_step(run_folder: str | None) -> tuple[int | None, str | None]:
    """Last step in the metrics of a run folder (None: no metrics yet), and what is wrong with them."""
    try:
        rows = read_metrics(Path(run_folder)) if run_folder else []
        return (int(rows[-1][STEP]) if rows else None), None
    except (LoadError, ValueError, OverflowError, OSError) as error:  # int() of a step that is no number
        return None, str(error)


def _read(job: JobFolder, position: int) -> tuple[str, int]:
    """The log from a byte position on, and the position after it."""
    with job.log.open("rb") as log:
        log.seek(position)
        data = log.read()
    return data.decode("utf-8", errors="replace"), position + len(data)
