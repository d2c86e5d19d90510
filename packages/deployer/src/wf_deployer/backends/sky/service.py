"""SkyServe as the back end of `wf serve --cloud`: a service of its own name, replicas behind one address.

Its folder holds what a job's does; `exit.json` is written when it is gone after `wf cancel`. Replicas have no
autostop: SkyServe ends those that are too many, all of them with --replicas 0-N, and `wf cancel` the service.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from wf_deployer.backends.base import JobSpec, JobState, JobStatus, Resources
from wf_deployer.backends.ending import require_running
from wf_deployer.backends.inputs import copy_place
from wf_deployer.backends.looking import NoAnswerError
from wf_deployer.backends.ownership import differences, read_ownership
from wf_deployer.backends.record import TOKEN_VARIABLE, Exit, JobFolder, JobRecord
from wf_deployer.backends.service import KEY_VARIABLE, PORT, Service, start_script
from wf_deployer.backends.sky.client import SkyError, Wanted
from wf_deployer.backends.sky.infra import Infra
from wf_deployer.backends.sky.launcher import STARTING_S, Launcher
from wf_deployer.backends.sky.ours import adopt, expected
from wf_deployer.backends.sky.planning import places, require_secrets
from wf_deployer.backends.sky.script import STOPPED_BY_TERM, service_script
from wf_deployer.backends.sky.service_client import SkyServeClient, SkyService, sky_service
from wf_deployer.backends.sky.settings import read_settings
from wf_deployer.backends.sky.task import SkyTask
from wf_deployer.errors import CommandError, CommandRequestError
from wf_deployer.workspace import workspace_root

_MODEL = "wf-model"
_READY_WITHIN_S = 3600
"""Environment, model and loading, before a replica that does not answer counts as failed."""
_STATES = {
    JobState.starting: "CONTROLLER_INIT REPLICA_INIT",
    JobState.running: "READY SHUTTING_DOWN NO_REPLICA",
    JobState.failed: "CONTROLLER_FAILED FAILED FAILED_CLEANUP",
}
_STATE_OF = {name: state for state, names in _STATES.items() for name in names.split()}


class SkyServiceBackend(Launcher[SkyService]):
    """Implements `Backend`."""

    by = "SkyServe"
    client: SkyServeClient

    def __init__(self, infra: Infra) -> None:
        self.infra = infra
        self.client = SkyServeClient(infra)

    def check(self, resources: Resources) -> None:
        if self.infra.is_slurm:
            raise CommandRequestError(f"--cloud {self.infra}: Slurm has no ports for servers; choose another")
        settings = read_settings(workspace_root())
        places(self.infra, resources, settings)
        require_secrets((KEY_VARIABLE, *settings.secrets))

    def results(self, spec: JobSpec) -> str | None:
        return None

    def submit(self, spec: JobSpec) -> None:
        self._submit(replace(spec, cloud=str(self.infra)))

    def _status(self, job: JobFolder, fetch: Callable[[], SkyService | None], until_s: float) -> JobStatus:
        if (end := job.exit) is not None:
            return JobStatus(end.state, str(job.log), None, end.returncode, end.ended_s)
        try:
            status = self._asked_status(job, fetch)
        except (NoAnswerError, CommandRequestError) as error:
            return JobStatus(JobState.unknown, str(job.log), problem=str(error))
        if read_ownership(job.folder) is not None:
            shutil.rmtree(job.folder / "workdir", ignore_errors=True)  # of a launch that was interrupted
        return status

    def logs(self, job_id: str, last: int | None, follow: bool) -> Iterator[str]:
        job = JobFolder.of(job_id)
        found = self._require(job)
        if not found.replicas:
            raise CommandError(f"{job_id} has no log: no replica runs (its service is {found.state})")
        replica, _ = max(found.replicas, key=lambda one: (one[1] == "READY", one[0]))
        return self.client.service_logs(found.ownership.name, replica, last, follow)

    def cancel(self, job_id: str, timeout_s: float, kill: bool) -> JobState:
        job = JobFolder.of(job_id)
        if (end := job.exit) is not None:
            require_running(job_id, end.state)
        found = self._require(job)
        with job.asking_for_its_end():
            self.client.serve_down(found.ownership.name)
        return self._waited(job_id, timeout_s)

    def _asked_status(self, job: JobFolder, fetch: Callable[[], SkyService | None]) -> JobStatus:
        found = fetch()
        told = [] if found is None else differences(expected(job, found), found.ownership)
        if found is not None and not told:
            adopt(job, found)
            return _shown(job, found)
        if job.was_cancelled:
            job.write_exit(end := Exit(STOPPED_BY_TERM, True, time.time()))
            return JobStatus(end.state, str(job.log), None, end.returncode, end.ended_s)
        is_young = time.time() - job.record.created_s < STARTING_S
        if self._is_being_launched(job) or (is_young and read_ownership(job.folder) is None):
            return JobStatus(JobState.starting, str(job.log))
        problem = f"SkyServe has no such service (any more){': ' if told else ''}{'; '.join(told)}"
        return JobStatus(JobState.lost, str(job.log), problem=problem)

    def _send(self, record: JobRecord, workdir: Path) -> None:
        super()._send(record, workdir)
        if (model := _service(record).local_model) is not None:
            copy_place(model, workdir / _MODEL if model.is_dir() else workdir / _MODEL / model.name)

    def _launch(self, job: JobFolder, task: str) -> SkyService | None:
        self.client.serve_up(task, job.record.name)
        return self._fetch(job)

    def _wanted(self, job: JobFolder) -> Wanted:
        return Wanted("service", job.record.name)

    _read = staticmethod(sky_service)

    def _after_failed_launch(self, job: JobFolder, error: CommandError) -> None:
        """Keeps the record of a service that is there all the same."""
        try:
            found = self._fetch(job)
        except CommandError as second:
            raise CommandError(
                f"{error}; then {second}; `wf cancel {job.record.id}` ends it if it is there"
            ) from error
        if found is not None:
            adopt(job, found)
            return
        shutil.rmtree(job.folder)
        raise CommandRequestError(f"nothing was launched: {error}") from error

    def _task(self, record: JobRecord, folder: Path) -> SkyTask:
        settings = read_settings(workspace_root())
        service = _service(record)
        start = start_script(service, record.command, f'"$root/{_MODEL}"', '"$root/wf-fetched-model"')
        return SkyTask(
            name=record.name,
            num_nodes=1,
            workdir=str(folder / "workdir"),
            places=tuple(
                place | {"labels": {"wf-job": record.id}}
                for place in places(self.infra, record.resources, settings)
            ),
            run=service_script(record.id, start),
            envs={TOKEN_VARIABLE: record.token, "WF_JOB_ID": record.id},
            secrets=tuple(dict.fromkeys((KEY_VARIABLE, *settings.secrets))),
            service=_policy(service),
        )


def _service(record: JobRecord) -> Service:
    assert record.service is not None
    return record.service


def _policy(service: Service) -> dict[str, object]:
    """SkyPilot's `service:`. Raises: CommandRequestError without --qps where the number varies."""
    replicas: dict[str, object] = {"min_replicas": service.min_replicas}
    if service.varies:
        if service.qps is None:
            raise CommandRequestError(
                f"--replicas {service.min_replicas}-{service.max_replicas}: give --qps, the requests a "
                "second for which SkyServe adds a replica"
            )
        replicas |= {"max_replicas": service.max_replicas, "target_qps_per_replica": service.qps}
        if service.idle_s is not None:
            replicas["downscale_delay_seconds"] = service.idle_s
    return {
        "readiness_probe": {"path": "/health", "initial_delay_seconds": _READY_WITHIN_S},
        "replica_policy": replicas,
        "ports": PORT,
    }


def _shown(job: JobFolder, found: SkyService) -> JobStatus:
    """Raises: SkyError for a state that is not known."""
    if found.state not in _STATE_OF:
        raise SkyError(f"SkyServe says {found.state!r:.60} of a service, which wf does not know")
    state, problem = _STATE_OF[found.state], None
    if state is JobState.failed:
        problem = f"SkyServe: {found.state}; `wf cancel {job.record.id}` gives its machines back"
    elif found.state != "READY":
        problem = f"SkyServe: {found.state}"
    return JobStatus(state, str(job.log), problem=problem, url=found.url)
