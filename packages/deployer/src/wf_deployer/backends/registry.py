"""The back ends by name, and the jobs of all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

from wf_deployer.backends.base import Backend, JobBackend, JobState, JobStatus
from wf_deployer.backends.ownership import require_undamaged
from wf_deployer.backends.record import JobFolder, JobRecord, job_ids, runs_folder
from wf_deployer.backends.sky.infra import CLOUDS, infra_of
from wf_deployer.errors import CommandError, CommandRequestError

BACKENDS = {
    "local": "wf_deployer.backends.local.backend:LocalBackend",
    "modal": "wf_deployer.backends.modal.backend:ModalBackend",
    "slurm": "wf_deployer.backends.slurm.backend:SlurmBackend",
}
"""Name of `--cloud` -> module and class, imported when it is used; other names: sky/infra.py."""

SERVICE_BACKENDS = {"modal": "wf_deployer.backends.modal.service:ModalServiceBackend"}
"""The same of `wf serve --cloud`."""

ELSEWHERE = frozenset({"modal"})
"""Those whose jobs see no file of this machine."""


B = TypeVar("B", bound=Backend)


@dataclass(frozen=True)
class Job:
    """A job, and the back end that its record names."""

    id: str

    @property
    def record(self) -> JobRecord:
        """What was asked for. Raises: CommandError if the record is damaged."""
        return JobFolder.of(self.id).record

    @property
    def backend(self) -> Backend:
        """Raises: CommandError if the record is damaged."""
        return self._opened(open_backend if self.record.service is None else open_service_backend)

    @property
    def job_backend(self) -> JobBackend:
        """Of a job that ends. Raises: CommandError if the record is damaged."""
        return self._opened(open_backend)

    def _opened(self, opening: Callable[[str], B]) -> B:
        name = self.record.cloud
        try:
            return opening(name)
        except CommandRequestError as error:
            path = JobFolder.of(self.id).folder / "job.json"
            told = f"cloud is {name!r:.60}, not one of {', '.join(BACKENDS)}"
            raise CommandError(f"{path} is damaged: {told}") from error

    @property
    def status(self) -> JobStatus:
        """As it is now. Raises: CommandError if a record is damaged; nobody is asked about it."""
        backend = self.backend
        require_undamaged(JobFolder.of(self.id))
        return backend.status(self.id)

    @property
    def status_here(self) -> JobStatus:
        """By what is written down here alone. Raises: CommandError if a record is damaged."""
        job = JobFolder.of(self.id)
        require_undamaged(job)
        if (end := job.exit) is not None:
            return JobStatus(end.state, str(job.log), None, end.returncode, end.ended_s)
        told = "not asked, since the others took the time; `wf runs --timeout 600` asks for longer"
        return JobStatus(JobState.unknown, str(job.log), problem=told)


def open_backend(name: str) -> JobBackend:
    """Raises: CommandRequestError for an unknown name."""
    if name in BACKENDS:
        job_backend: JobBackend = _opened(BACKENDS[name])
        return job_backend
    if (infra := infra_of(name)) is not None:
        from wf_deployer.backends.sky.backend import SkyBackend

        return SkyBackend(infra)
    raise CommandRequestError(
        f"--cloud {name!r} is not a back end; there is {', '.join(BACKENDS)}, sky (SkyPilot chooses) and "
        f"its clouds: {', '.join(cloud for cloud in CLOUDS if cloud not in BACKENDS)}, sky:slurm"
    )


def _opened(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)()


def open_service_backend(name: str) -> Backend:
    """Of `wf serve --cloud`. Raises: CommandRequestError for one that cannot serve."""
    if name in SERVICE_BACKENDS:
        backend: Backend = _opened(SERVICE_BACKENDS[name])
        return backend
    if name not in BACKENDS and (infra := infra_of(name)) is not None:
        from wf_deployer.backends.sky.service import SkyServiceBackend

        return SkyServiceBackend(infra)
    raise CommandRequestError(
        f"--cloud {name!r} serves nothing; there is {', '.join(SERVICE_BACKENDS)}, sky (SkyPilot chooses) "
        f"and its clouds: {', '.join(cloud for cloud in CLOUDS if cloud != 'slurm')}; on this machine leave "
        "--cloud out"
    )


T = TypeVar("T")
Told = JobStatus | CommandError | OSError
"""How a job is, or why its record cannot be read."""


def statuses(jobs: Sequence[Job], timeout_s: float) -> dict[str, Told]:
    """How jobs are now, by id; each back end is asked once, for all of its jobs.

    Args:
        timeout_s: Of all questions to others. A back end has its share of what is left; one that does not
            answer takes nothing from the next.
    """
    told: dict[str, Told] = {}
    groups: dict[tuple[str, bool], list[Job]] = {}
    for job in jobs:
        try:
            record = job.record
            require_undamaged(JobFolder.of(job.id))
            _ = job.backend
        except (CommandError, OSError) as error:
            told[job.id] = error
        else:
            place = record.cloud.partition("/")[0]  # not where in a cloud: that is one and the same back end
            groups.setdefault((place, record.service is not None), []).append(job)
    for job in groups.pop(("local", False), []):
        told[job.id] = _told(lambda job: job.status, job)
    until_s = time.monotonic() + timeout_s
    for number, group in enumerate(groups.values()):
        now_s = time.monotonic()
        share_s = (until_s - now_s) / (len(groups) - number)
        if share_s <= 0:
            told |= {job.id: _told(lambda job: job.status_here, job) for job in group}
            continue
        status_of = group[0].backend.look([job.id for job in group], now_s + share_s)
        told |= {job.id: _told(status_of, job.id) for job in group}
    return told


def _told(ask: Callable[[T], JobStatus], about: T) -> Told:
    try:
        return ask(about)
    except (CommandError, OSError) as error:
        return error


def list_jobs() -> list[Job]:
    """All jobs, oldest first."""
    return [Job(job_id) for job_id in job_ids()]


def find_job(name: str | None) -> Job:
    """The job whose id starts with `name`; None: the newest.

    Raises:
        CommandError: there are no jobs.
        CommandRequestError: none or several match.
    """
    jobs = list_jobs()
    if not jobs:
        raise CommandError(f"no jobs in {runs_folder()}; `wf train -s 1` starts one")
    if name is None:
        return jobs[-1]
    if not name.strip():
        raise CommandRequestError("the id of a job is empty; `wf runs` lists them")
    matches = [job for job in jobs if job.id.startswith(name)]
    exact = [job for job in matches if job.id == name]
    if len(exact or matches) == 1:
        return (exact or matches)[0]
    if not matches:
        raise CommandRequestError(f"no job {name!r} in {runs_folder()}; `wf runs` lists them")
    raise CommandRequestError(f"{name!r} fits {', '.join(job.id for job in matches)}; give more of the id")
