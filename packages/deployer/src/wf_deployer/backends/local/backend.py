"""Background processes of this machine as a back end."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from wf_deployer.backends.base import JobSpec, JobState, JobStatus, NoUpload, Resources
from wf_deployer.backends.follow import follow_log
from wf_deployer.backends.local.cancel import cancel
from wf_deployer.backends.local.launch import launch, scratch_of
from wf_deployer.backends.local.record import LocalJob
from wf_deployer.backends.record import default_output
from wf_deployer.backends.stored import get_upload
from wf_deployer.backends.work import output_place, program_here, results_url
from wf_deployer.errors import CommandRequestError
from wf_formats.secrets import redacted_arguments


class LocalBackend:
    """Implements `Backend`."""

    def check(self, resources: Resources) -> None:
        if resources.gpu is not None:
            raise CommandRequestError(
                f"--gpu {resources.gpu}: a local job sees this machine's GPUs as they are; leave it out, or "
                "choose another --cloud (processes: distributed=ddp distributed.devices=N)"
            )
        if resources.num_nodes != 1:
            raise CommandRequestError(
                f"--num-nodes {resources.num_nodes}: local is this machine; leave it out, or choose another "
                "--cloud"
            )
        if resources.cpus is not None:
            raise CommandRequestError(
                f"--cpus {resources.cpus}: a local job sees all cores; leave it out, or use taskset"
            )
        if resources.spot:
            raise CommandRequestError(
                "--spot: local is this machine; leave it out, or choose another --cloud"
            )
        if resources.time_s is not None:
            raise CommandRequestError("--time: a local job has no limit; leave it out")

    def preview(self, spec: JobSpec) -> str:
        shown = redacted_arguments(program_here(spec, scratch_of(spec)))
        return f"cd {shlex.quote(spec.cwd)} && {shlex.join(shown)}\n"

    def results(self, spec: JobSpec) -> str | None:
        return spec.run_folder

    def output_of(self, job_id: str, given: str | None, cwd: str) -> str:
        return output_place(given, cwd, default_output(job_id), sees_paths=True)

    def fetch(self, job_id: str, there: Path) -> NoUpload | None:
        return get_upload(results_url(LocalJob.of(job_id).record), there)

    def submit(self, spec: JobSpec) -> None:
        launch(spec)

    def status(self, job_id: str) -> JobStatus:
        job = LocalJob.of(job_id)
        job.remove_scratch()
        state, end = job.state, job.exit
        step, problem = job.last_step
        return JobStatus(
            state=state,
            log=str(job.log),
            step=step,
            exit_code=end.returncode if end else None,
            ended_s=end.ended_s if end else None,
            problem=problem,
        )

    def look(self, job_ids: Sequence[str], until_s: float = math.inf) -> Callable[[str], JobStatus]:
        return self.status

    def logs(self, job_id: str, last: int | None, follow: bool) -> Iterator[str]:
        job = LocalJob.of(job_id)
        if not follow:
            _ = job.state  # a damaged record is told
        return follow_log(job.log, last, follow, lambda: job.state.is_over)

    def cancel(self, job_id: str, timeout_s: float, kill: bool) -> JobState:
        return cancel(LocalJob.of(job_id), timeout_s, kill)
