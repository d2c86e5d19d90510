"""Two jobs that write one run folder would spoil it: containers do not see each other's locks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from wf_deployer.backends.base import JobSpec, JobStatus
from wf_deployer.backends.modal.generate import run_in_volume
from wf_deployer.backends.record import JobFolder, job_ids
from wf_deployer.errors import CommandError, CommandRequestError


def require_one_writer(spec: JobSpec, look: Callable[[Sequence[str]], Callable[[str], JobStatus]]) -> None:
    """Raises: CommandRequestError, naming another job that writes the same run.

    Args: look: `Backend.look`.
    """
    writers = []
    for job_id in job_ids():
        with suppress(CommandError):  # a record that is damaged
            record = JobFolder.of(job_id).record
            whose = (record.kind, record.experiment, record.stage)
            if record.cloud == "modal" and whose == (spec.kind, spec.experiment, spec.stage):
                writers.append(job_id)
    status_of = look(writers)
    for job_id in writers:
        with suppress(CommandError):
            if not (status := status_of(job_id)).state.is_over:
                break
    else:
        return
    raise CommandRequestError(
        f"{job_id} is {status.state} and writes {run_in_volume(spec)}; wait for its end, `wf cancel` it, "
        "or choose another experiment"
    )
