"""The Slurm programs that are used: sbatch, squeue, scontrol, scancel; all by job id, sacct not at all.

Answers are columns of fixed width, which no job name or comment of others can move. Variables that would
change what a program chooses or prints (`SQUEUE_*`, `SLURM_*` of a job around us) are taken away.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

from wf_deployer.backends.looking import NoAnswerError, late
from wf_deployer.backends.ownership import Ownership
from wf_deployer.errors import CommandRequestError
from wf_formats.printable import printable

PROGRAMS = ("sbatch", "squeue", "scontrol", "scancel")
TIMEOUT_S = 60.0
_KEPT = ("SLURM_CONF", "SLURM_JWT")
_CHANGES_ANSWERS = re.compile(r"(SLURM|SQUEUE|SCANCEL|SCONTROL|SRUN|SLURMD)_\w*|SBATCH_(ERROR|INPUT)")
_MOVES_JOBS = ("SBATCH_ARRAY_INX", "SBATCH_CLUSTERS", "SBATCH_WAIT", "SBATCH_HETJOB")
_JOB_ID = re.compile(r"[1-9]\d*", re.ASCII)
_COMMENT = re.compile(r"wf:([0-9a-f]{32})")
_COLUMNS = {
    "JobID": 32,
    "UserName": 64,
    "State": 32,
    "SubmitTime": 32,
    "RestartCnt": 16,
    "Reason": 64,
    "Comment": 64,
    "Name": 128,
}
"""Field of `squeue --Format` -> width."""


class SlurmError(NoAnswerError):
    """A Slurm program failed, or its controller does not answer."""


@dataclass(frozen=True)
class SlurmJob:
    """A job as Slurm shows it: `state` such as "RUNNING", `reason` why it waits or ended."""

    ownership: Ownership
    state: str
    reason: str


def require_programs() -> None:
    """Raises: CommandRequestError if a program is missing, or a variable would submit something else."""
    for program in PROGRAMS:
        if shutil.which(program) is None:
            raise CommandRequestError(
                f"--cloud slurm: there is no {program} on PATH; run wf on a login node of the cluster"
            )
    for name in _MOVES_JOBS:
        if name in os.environ:
            raise CommandRequestError(f"{name} is set, and wf submits one job to this cluster; unset it")


def comment_with(token: str) -> str:
    """The `--comment` that a job carries."""
    return f"wf:{token}"


def submit(options: Sequence[str], script: str, variables: Mapping[str, str]) -> str:
    """Submits a batch script; returns the job's id.

    Args:
        variables: Of the job, besides those of this process.
    Raises:
        SlurmError: sbatch failed; after a lost connection the job may be there all the same.
    """
    answer = _run(["sbatch", "--parsable", *options], script, _clean_environment() | dict(variables))
    job_id = answer.strip().partition(";")[0]
    if not _JOB_ID.fullmatch(job_id):
        raise SlurmError(f"sbatch answered {printable(answer)!r}, not a job id")
    return job_id


def check_submission(options: Sequence[str], script: str) -> None:
    """Lets Slurm check a submission, without submitting. Raises: SlurmError (what it says)."""
    _run(["sbatch", "--test-only", *options], script, _clean_environment())


@cache
def cluster_name() -> str:
    """Asked once in a process. Raises: SlurmError if the controller does not answer."""
    match = re.search(r"^ClusterName\s*=\s*(\S+)", _ask(["scontrol", "show", "config"]), re.MULTILINE)
    if match is None:
        raise SlurmError("scontrol show config names no ClusterName")
    return match[1]


def job_by_id(job_id: str) -> SlurmJob | None:
    """None: Slurm knows no such job (any more). Raises: SlurmError."""
    return jobs_by_id([job_id]).get(job_id)


def jobs_by_id(job_ids: Sequence[str], timeout_s: float = TIMEOUT_S) -> dict[str, SlurmJob]:
    """Those of several jobs that Slurm knows, asked for once. Raises: SlurmError."""
    wanted = [job_id for job_id in job_ids if _JOB_ID.fullmatch(job_id)]
    if not wanted:
        return {}
    try:
        jobs = _jobs(f"--jobs={','.join(wanted)}", timeout_s)
    except SlurmError as error:
        if len(wanted) == 1 and "Invalid job id" in str(error):  # of more it leaves out what is not there
            return {}
        raise
    found = {job.ownership.id: job for job in jobs}
    if len(found) < len(jobs):
        raise SlurmError(f"Slurm shows {len(jobs)} jobs for the ids {', '.join(wanted)}")
    return found


def job_by_token(name: str, token: str, timeout_s: float = TIMEOUT_S) -> SlurmJob | None:
    """The one job of that name with that token, to find an id that could not be written down."""
    jobs = [job for job in _jobs(f"--name={name}", timeout_s) if job.ownership.token == token]
    return jobs[0] if len(jobs) == 1 else None


def signal_batch_script(job_id: str, name: str) -> None:
    """Sends a signal to the batch script alone."""
    _ask(["scancel", "--batch", f"--signal={name}", job_id])


def cancel_if_pending(job_id: str) -> None:
    """Does nothing to a job that has begun meanwhile."""
    _ask(["scancel", "--state=PENDING", job_id])


def kill(job_id: str) -> None:
    _ask(["scancel", job_id])


def _jobs(choice: str, timeout_s: float) -> list[SlurmJob]:
    columns = ",".join(f"{name}:{width}" for name, width in _COLUMNS.items())
    answer = _ask(["squeue", "--noheader", "--states=all", choice, f"--Format={columns}"], timeout_s)
    lines = [line for line in answer.split("\n") if line.strip()]
    if not lines:
        return []
    cluster = cluster_name()
    return [_job(line, cluster) for line in lines]


def _job(line: str, cluster: str) -> SlurmJob:
    values, position = {}, 0
    for name, width in _COLUMNS.items():
        values[name] = line[position : position + width].strip()
        position += width
    match = _COMMENT.fullmatch(values["Comment"])
    try:
        submitted = datetime.fromisoformat(values["SubmitTime"]).replace(tzinfo=UTC)
        restarts = int(values["RestartCnt"])
    except ValueError as error:
        raise SlurmError(f"squeue answered {printable(line)!r}: {error}") from error
    ownership = Ownership(
        id=values["JobID"],
        name=values["Name"],
        user=values["UserName"],
        endpoint=cluster,
        submitted_s=int(submitted.timestamp()),
        token=match[1] if match else None,
        restarts=restarts,
    )
    return SlurmJob(ownership, values["State"], values["Reason"])


def _clean_environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or not _CHANGES_ANSWERS.fullmatch(name)
    }


def _ask(command: list[str], timeout_s: float = TIMEOUT_S) -> str:
    return _run(command, None, _clean_environment() | {"TZ": "UTC", "LC_ALL": "C"}, timeout_s)


def _run(
    command: list[str], script: str | None, environment: dict[str, str], timeout_s: float = TIMEOUT_S
) -> str:
    """Standard output. Raises: SlurmError with what the program says, in one line."""
    try:
        done = subprocess.run(
            command,
            input=script or "",
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as error:
        raise SlurmError(
            f"there is no {command[0]} on PATH; run wf on a login node of the cluster"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(late(command[0], timeout_s)) from error
    if done.returncode != 0:
        words = printable(" ".join(done.stderr.split()) or f"exit code {done.returncode}")
        raise SlurmError(f"{command[0]}: {words.removeprefix(f'{command[0]}: error: ')}")
    return done.stdout
