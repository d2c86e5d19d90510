"""Slurm as a back end of `wf train`.

Besides what every job has, the folder of a job holds `job.sh` (the batch script), `submitted.json` (whose job
it is), `cancel.json` (`wf cancel` was asked), `started` (its processes have begun), `ended` (by Slurm).
"""

from __future__ import annotations

import math
import os
import pwd
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from wf_deployer.backends.base import JobSpec, JobState, JobStatus, NoUpload, Resources
from wf_deployer.backends.ending import require_running, wait_for_end
from wf_deployer.backends.follow import follow_log
from wf_deployer.backends.looking import NoAnswerError, answer_of, asked_for, time_left_s
from wf_deployer.backends.ownership import (
    Ownership,
    differences,
    read_ownership,
    require_ours,
    require_recorded_of,
    write_ownership,
)
from wf_deployer.backends.record import (
    TOKEN_VARIABLE,
    JobFolder,
    JobRecord,
    default_output,
    refuse_secrets,
    runs_folder,
)
from wf_deployer.backends.slurm import client
from wf_deployer.backends.slurm.client import SlurmError, SlurmJob
from wf_deployer.backends.slurm.script import batch_script, sbatch_options
from wf_deployer.backends.stored import get_upload
from wf_deployer.backends.travelling import Destination, override_values, refuse_files_that_stay
from wf_deployer.backends.work import output_place, program_here, results_url
from wf_deployer.errors import CommandError, CommandRequestError
from wf_deployer.workspace import workspace_root
from wf_formats.atomic import atomic_write_text
from wf_formats.run_files import is_complete

_POLL_S = 1.0
_LOG_POLL_S = 5.0
_SHARED_OUTPUT = "distributed.shared_output"
_STARTING_S = 60.0
"""A job younger than this that Slurm does not know is being submitted, an older one is lost."""
_STATES = {
    JobState.pending: "PENDING REQUEUED REQUEUE_HOLD REQUEUE_FED SPECIAL_EXIT RESV_DEL_HOLD",
    JobState.running: "CONFIGURING RUNNING COMPLETING RESIZING SIGNALING STAGE_OUT STOPPED SUSPENDED",
    JobState.finished: "COMPLETED",
    JobState.cancelled: "CANCELLED",
    JobState.failed: "BOOT_FAIL DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED REVOKED TIMEOUT",
}
_STATE_OF = {name: state for state, names in _STATES.items() for name in names.split()}


class SlurmBackend:
    """Implements `Backend`."""

    def check(self, resources: Resources) -> None:
        if resources.spot:
            raise CommandRequestError("--spot: Slurm has none; leave it out (a QOS: SBATCH_QOS)")
        if len(resources.gpu_choices) > 1:
            raise CommandRequestError(f"--gpu {resources.gpu}: Slurm takes one kind; leave the others out")
        client.require_programs()

    def preview(self, spec: JobSpec) -> str:
        _check_command(spec)
        record = JobRecord(**vars(spec))
        folder = runs_folder().absolute() / spec.id
        options = sbatch_options(record, folder)
        script = batch_script(spec.id, folder, program_here(spec), spec.resources)
        try:
            client.check_submission(options, script)
        except SlurmError as error:
            raise CommandRequestError(f"Slurm would refuse it: {error}") from error
        return f"{shlex.join(['sbatch', *options])} <<'JOB'\n{script}JOB\n"

    def results(self, spec: JobSpec) -> str | None:
        return spec.run_folder

    def output_of(self, job_id: str, given: str | None, cwd: str) -> str:
        return output_place(given, cwd, default_output(job_id), sees_paths=True)

    def fetch(self, job_id: str, there: Path) -> NoUpload | None:
        return get_upload(results_url(JobFolder.of(job_id).record), there)

    def submit(self, spec: JobSpec) -> None:
        _check_command(spec)
        job = JobFolder.create(spec)
        folder, record = job.folder.absolute(), job.record
        script = batch_script(spec.id, folder, program_here(spec), spec.resources)
        try:
            atomic_write_text(folder / "job.sh", script)
        except OSError:
            shutil.rmtree(folder)
            raise
        variables = {TOKEN_VARIABLE: record.token, "PYTHONUNBUFFERED": "1"}
        try:
            slurm_id = client.submit(sbatch_options(record, folder), script, variables)
        except SlurmError as error:
            _after_failed_submission(job, error)
            return
        try:
            found = client.job_by_id(slurm_id)
        except SlurmError as error:
            raise CommandError(
                f"{spec.id} was submitted (job {slurm_id}), but then {error}; do not submit it again: "
                "`wf runs` finds it"
            ) from error
        if found is None:
            raise CommandError(
                f"{spec.id} was submitted, and Slurm does not know its job {slurm_id} any more"
            )
        _adopt(job, found)

    def status(self, job_id: str) -> JobStatus:
        return self.look([job_id])(job_id)

    def look(self, job_ids: Sequence[str], until_s: float = math.inf) -> Callable[[str], JobStatus]:
        def id_of(job: JobFolder) -> str | None:
            if job.exit is not None:
                return None
            ownership = _ownership(job, time_left_s(until_s, client.TIMEOUT_S))
            return "" if ownership is None else ownership.id

        wanted, damaged = asked_for(job_ids, id_of)
        answers: dict[str, SlurmJob | CommandError | None] = dict(damaged)
        try:
            found = client.jobs_by_id(list(wanted.values()), time_left_s(until_s, client.TIMEOUT_S))
            answers |= {job_id: found.get(slurm_id) for job_id, slurm_id in wanted.items()}
        except SlurmError as error:
            answers |= dict.fromkeys(wanted, error)
        return lambda job_id: self._status(JobFolder.of(job_id), partial(answer_of, job_id, answers))

    def _status(self, job: JobFolder, fetch: Callable[[], SlurmJob | None]) -> JobStatus:
        step, problem = job.last_step
        end = job.exit
        if end is not None:
            return JobStatus(end.state, str(job.log), step, end.returncode, end.ended_s, problem)
        try:
            state, told = _state(job, fetch)
        except NoAnswerError as error:
            state, told = JobState.unknown, str(error)
        if (end := job.exit) is not None:  # it ended between the two looks
            return JobStatus(end.state, str(job.log), step, end.returncode, end.ended_s, problem)
        return JobStatus(state, str(job.log), step, problem=problem or told)

    def logs(self, job_id: str, last: int | None, follow: bool) -> Iterator[str]:
        log = JobFolder.of(job_id).log
        return follow_log(log, last, follow, lambda: self.status(job_id).state.is_over, _LOG_POLL_S)

    def cancel(self, job_id: str, timeout_s: float, kill: bool) -> JobState:
        job = JobFolder.of(job_id)
        if (end := job.exit) is not None:
            require_running(job_id, end.state)
        if (ownership := _ownership(job)) is None:
            raise CommandError(f"refused: Slurm has no job with the token of {job_id}; nothing was touched")
        require_running(job_id, _state_of(_fetch_ours(ownership)))
        with job.asking_for_its_end() as delivered:  # the batch script looks for the mark
            is_over = _stop(job, ownership, timeout_s, delivered)
        if not is_over and kill:
            _fetch_ours(ownership)
            client.kill(ownership.id)
            wait_for_end(lambda: self.status(job_id).state, timeout_s, _POLL_S)
        return self.status(job_id).state


def _check_command(spec: JobSpec) -> None:
    """Raises: CommandRequestError for secrets, and for files that nodes without a common disk do not see."""
    refuse_secrets(spec.command, "Slurm stores a job's command", "give it by environment")
    if spec.inputs is not None:
        return
    named = [argument for argument in spec.command if _SHARED_OUTPUT in argument]
    if any(key == _SHARED_OUTPUT and value is False for _, key, value in override_values(named)):
        root = workspace_root()
        destination = Destination(
            called_from=Path(spec.cwd),
            folder=Path(spec.cwd),
            has=lambda path: path.is_relative_to(root),
            knows=lambda path: Path(os.path.normpath(path)).is_relative_to(root),
            fix=f"with {_SHARED_OUTPUT}=false name an upload (gs://, s3://) or a file of {root}",
            other_keys=("output_dir",),
        )
        refuse_files_that_stay(spec.command, destination)


def _after_failed_submission(job: JobFolder, error: SlurmError) -> None:
    """Keeps the record of a job that is there all the same; removes it if Slurm has none."""
    try:
        found = client.job_by_token(job.record.name, job.record.token)
    except SlurmError as second:
        raise CommandError(
            f"{error}; then {second}; `wf runs` tells later whether the job is there"
        ) from error
    if found is None:
        shutil.rmtree(job.folder)
        raise CommandRequestError(f"nothing was submitted: {error}") from error
    _adopt(job, found)


def _adopt(job: JobFolder, found: SlurmJob) -> Ownership:
    """Writes down whose job it is, if what Slurm shows has the name, user and token of the record."""
    expected = replace(found.ownership, name=job.record.name, user=_user_name(), token=job.record.token)
    require_ours(expected, found.ownership)
    write_ownership(job.folder, expected)
    return expected


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # an account that this machine does not know; Slurm shows its number too
        return str(os.getuid())


def _ownership(job: JobFolder, timeout_s: float = client.TIMEOUT_S) -> Ownership | None:
    """As it was written down; else (`wf` was killed right after submitting) by the token of the job."""
    record, recorded = job.record, read_ownership(job.folder)
    if recorded is None:
        found = client.job_by_token(record.name, record.token, timeout_s)
        return None if found is None else _adopt(job, found)
    require_recorded_of(record, recorded, job.folder)
    return recorded


def _fetch_ours(ownership: Ownership) -> SlurmJob:
    """The job of that id, now. Raises: CommandError unless all agrees."""
    found = client.job_by_id(ownership.id)
    if found is None:
        raise CommandError(f"refused: Slurm knows no job {ownership.id} any more; nothing was touched")
    require_ours(ownership, found.ownership)
    return found


def _state_of(found: SlurmJob) -> JobState:
    if found.state not in _STATE_OF:
        raise SlurmError(
            f"Slurm says {found.state!r:.60} of job {found.ownership.id}, which wf does not know"
        )
    return _STATE_OF[found.state]


def _state(job: JobFolder, fetch: Callable[[], SlurmJob | None]) -> tuple[JobState, str | None]:
    """State of a job without `exit.json`, and what there is to say. Raises: NoAnswerError."""
    found, ownership = fetch(), read_ownership(job.folder)
    if found is not None and ownership is not None and not differences(ownership, found.ownership):
        return _known_state(job, found)
    record = job.record
    if ownership is None and time.time() - record.created_s < _STARTING_S:
        return JobState.starting, None
    if record.run_folder is not None and is_complete(Path(record.run_folder)):
        return JobState.finished, None
    if (job.folder / "ended").exists():
        return JobState.cancelled, None
    return JobState.lost, "Slurm does not know the job any more, and it has not recorded its end"


def _known_state(job: JobFolder, found: SlurmJob) -> tuple[JobState, str | None]:
    state = _state_of(found)
    if state is JobState.failed and job.was_cancelled:
        return JobState.cancelled, None
    if state in (JobState.pending, JobState.failed):
        return state, f"Slurm: {found.state}, {found.reason}"
    return state, None


def _stop(job: JobFolder, ownership: Ownership, timeout_s: float, delivered: Callable[[], None]) -> bool:
    """Asks until it has an effect, and waits for the end; False: it takes longer."""
    deadline_s = time.monotonic() + timeout_s
    asked = False
    while job.exit is None:
        found = client.job_by_id(ownership.id)
        if found is None:
            return True
        require_ours(ownership, found.ownership)
        state = _state_of(found)
        if state.is_over:
            return True
        if state is JobState.pending:
            client.cancel_if_pending(ownership.id)
            delivered()
        elif found.state == "RUNNING" and not asked:
            client.signal_batch_script(ownership.id, "USR1")
            delivered()
            asked = True
        if time.monotonic() > deadline_s:
            return False
        time.sleep(_POLL_S)
    return True
