"""SkyPilot as a back end of `wf train`.

`--spot` is a managed job: SkyPilot's controller begins it again when its machines are taken away. Otherwise
the job gets a cluster of its own, which ends when it has been idle; on Slurm the job itself gives it back.

Besides what every job has, its folder holds `task.yaml`, `submitted.json` (whose job it is), `launch.lock`
(held while it is launched), `last_state.json` (end.py) and `given_back` (its machines were). Machines keep
nothing: how the job ended, and its log, lie beside its uploads.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from wf_deployer.backends.base import JobSpec, JobState, JobStatus, NoUpload, Resources
from wf_deployer.backends.ending import require_running
from wf_deployer.backends.follow import follow_log
from wf_deployer.backends.looking import NoAnswerError, time_left_s
from wf_deployer.backends.ownership import differences, read_ownership, require_ours
from wf_deployer.backends.record import JobFolder, JobRecord
from wf_deployer.backends.sky.client import SkyClient, SkyError, SkyJob, Wanted, sky_job
from wf_deployer.backends.sky.end import fetch_end, guessed_exit, remember, remembered, upload_of
from wf_deployer.backends.sky.infra import Infra
from wf_deployer.backends.sky.launcher import STARTING_S, Launcher
from wf_deployer.backends.sky.ours import (
    adopt,
    expected,
    known_state,
    managed_id,
    own_job,
    state_of,
)
from wf_deployer.backends.sky.planning import SENT, places, plan, require_secrets
from wf_deployer.backends.sky.settings import read_settings
from wf_deployer.backends.sky.task import SkyTask
from wf_deployer.backends.stored import get_upload
from wf_deployer.backends.work import copy_inputs, output_place, results_url
from wf_deployer.errors import CommandError, CommandRequestError
from wf_deployer.workspace import workspace_root
from wf_formats.printable import printable

GRACE_S = 35.0
"""A cancelled job has 30 s between TERM and KILL; its machines are given back after that."""
_LAUNCHING_S = 3600.0
"""After this SkyPilot launches nothing any more for a `wf` that was interrupted."""
_GIVEN_BACK = "given_back"


class SkyBackend(Launcher[SkyJob]):
    """Implements `Backend`."""

    by = "SkyPilot"

    def __init__(self, infra: Infra) -> None:
        self.infra = infra
        self.client = SkyClient(infra)

    def check(self, resources: Resources) -> None:
        settings = read_settings(workspace_root())
        places(self.infra, resources, settings)
        require_secrets(settings.secrets)

    def results(self, spec: JobSpec) -> str | None:
        return spec.upload

    def output_of(self, job_id: str, given: str | None, cwd: str) -> str:
        return output_place(given, cwd, None, sees_paths=self.infra.is_own)

    def fetch(self, job_id: str, there: Path) -> NoUpload | None:
        return get_upload(results_url(JobFolder.of(job_id).record), there)

    def submit(self, spec: JobSpec) -> None:
        self._submit(replace(spec, cloud=str(self.infra), run_folder=None))

    def _status(self, job: JobFolder, fetch: Callable[[], SkyJob | None], until_s: float) -> JobStatus:
        state, problem = JobState.unknown, None
        if job.exit is None:
            state, problem = self._asked_state(job, fetch, until_s)
        if (end := job.exit) is not None:
            state = end.state
        if state.is_over:
            problem = self._return_machines(job, until_s) or problem
            self._clear(job)
        if end is not None:
            return JobStatus(state, str(job.log), None, end.returncode, end.ended_s, problem)
        return JobStatus(state, str(job.log), problem=problem)

    def logs(self, job_id: str, last: int | None, follow: bool) -> Iterator[str]:
        job = JobFolder.of(job_id)
        if job.exit is None and (found := self._fetch(job)) is not None:
            require_ours(expected(job, found), found.ownership)
            is_empty = True
            try:
                for piece in self._stream(job, found, last, follow):
                    is_empty = False
                    yield piece
                return
            except SkyError:
                if not self.status(job_id).state.is_over:
                    raise
            if not is_empty:  # its machines went while we read
                return
        if job.log.stat().st_size == 0 and (missing := fetch_end(job)) is not None:
            raise CommandError(f"{job_id} has no machines any more, and left no log: {missing.reason}")
        yield from follow_log(job.log, last, False, lambda: True)

    def cancel(self, job_id: str, timeout_s: float, kill: bool) -> JobState:
        job = JobFolder.of(job_id)
        if (end := job.exit) is not None:
            require_running(job_id, end.state)
        found = self._require(job)
        if job.record.resources.spot:
            require_running(job_id, state_of(job, found))
        with job.asking_for_its_end() as delivered:
            if job.record.resources.spot:
                self.client.cancel_job(managed_id(job, found.ownership))
            else:
                self._give_back(job, found, min(timeout_s, GRACE_S), delivered)
        return self._waited(job_id, timeout_s)

    def _return_machines(self, job: JobFolder, until_s: float) -> str | None:
        """On Slurm nobody else does, where the job itself could not. Tried at each look until it is done.

        Returns: why it is not done yet.
        """
        mark = job.folder / _GIVEN_BACK
        if not self.infra.is_slurm or mark.exists():
            return None
        if time_left_s(until_s) == 0:
            return "ended, machines not yet given back: the time is over; look again"
        try:
            found = self._fetch(job)
            if found is not None and not differences(expected(job, found), found.ownership):
                self._give_back(job, found, 0.0, lambda: None)
        except CommandError as error:
            return f"ended, machines not yet given back: {error}"
        mark.touch()
        return None

    def _clear(self, job: JobFolder) -> None:
        """Of a launch that was interrupted; while SkyPilot may be at it, it needs the files."""
        is_old = time.time() - job.record.created_s > _LAUNCHING_S
        if read_ownership(job.folder) is not None or is_old:
            shutil.rmtree(job.folder / "workdir", ignore_errors=True)

    def _give_back(
        self, job: JobFolder, found: SkyJob, grace_s: float, delivered: Callable[[], None]
    ) -> None:
        """Ends our job on its cluster, and then the cluster, unless somebody else is at work on it."""
        own = own_job(job, found)
        if own is not None and not known_state(own.state).is_over:
            self.client.cancel_cluster_job(found.ownership.name, own.id)
            delivered()
            time.sleep(grace_s)
            found = self._require(job)
            own = own_job(job, found)
        others = [other for other in found.jobs if other != own and not known_state(other.state).is_over]
        if others:
            shown = ", ".join(f"job {other.id} of {printable(other.user)}" for other in others)
            raise CommandError(
                f"cluster {found.ownership.name} stays: it also runs {shown}; nothing else was touched"
            )
        self.client.down(found.ownership.name)

    def _send(self, record: JobRecord, workdir: Path) -> None:
        super()._send(record, workdir)
        if record.inputs is not None:
            copy_inputs(record, workdir / SENT)

    def _task(self, record: JobRecord, folder: Path) -> SkyTask:
        return plan(self.infra, record, folder / "workdir", read_settings(workspace_root()))

    def _launch(self, job: JobFolder, task: str) -> SkyJob | None:
        name = job.record.name
        if job.record.resources.spot:
            return self.client.find(Wanted("job", self.client.launch_job(task, name)), sky_job)
        self.client.launch_cluster(task, name)
        return self.client.find(Wanted("cluster", name), sky_job)

    def _after_failed_launch(self, job: JobFolder, error: CommandError) -> None:
        """Gives back machines that are there all the same; keeps a managed job that is."""
        record = job.record
        try:
            found = self._fetch(job)
            if found is not None and record.resources.spot:
                adopt(job, found)
                return
            if found is not None:
                require_ours(expected(job, found), found.ownership)
                self.client.down(found.ownership.name)
        except CommandError as second:
            raise CommandError(
                f"{error}; then {second}; look at `wf runs` whether {record.id} has machines (`wf cancel`)"
            ) from error
        shutil.rmtree(job.folder)
        raise CommandRequestError(f"nothing was launched: {error}") from error

    def _check(self, job: JobFolder) -> None:
        if job.exit is None:
            upload_of(job)
            remembered(job)

    def _wanted(self, job: JobFolder) -> Wanted:
        """A cluster by its name; a managed job by its id, or by name and token until it has one."""
        record, recorded = job.record, read_ownership(job.folder)
        if not record.resources.spot:
            return Wanted("cluster", record.name)
        if recorded is None:
            return Wanted("job_by_token", record.name, record.token)
        return Wanted("job", managed_id(job, recorded))

    _read = staticmethod(sky_job)

    def _asked_state(
        self, job: JobFolder, fetch: Callable[[], SkyJob | None], until_s: float
    ) -> tuple[JobState, str | None]:
        """Of a job without `exit.json`, which it may get."""
        self._check(job)
        try:
            found = fetch()
            if found is None or differences(expected(job, found), found.ownership):
                return self._state_without_machines(job, until_s)
            adopt(job, found)
            state = state_of(job, found)
        except (NoAnswerError, CommandRequestError) as error:
            return JobState.unknown, str(error)
        if own_job(job, found) is not None or job.record.resources.spot:  # its files are there
            self._clear(job)
        if not state.is_over or (missing := fetch_end(job, until_s)) is None:
            return state, found.reason
        return self._settled(job, state, missing, found.reason)

    def _settled(
        self, job: JobFolder, state: JobState, missing: NoUpload, reason: str | None
    ) -> tuple[JobState, str | None]:
        """Of a job that is over by SkyPilot's word; the word is final if there will be no other."""
        if missing.is_missing:
            job.write_exit(guessed_exit(job, state))
            return state, reason
        remember(job, state)
        return state, reason or f"how it ended is not known yet: {missing.reason}"

    def _state_without_machines(self, job: JobFolder, until_s: float) -> tuple[JobState, str | None]:
        if self._is_being_launched(job):
            return JobState.starting, None
        if (missing := fetch_end(job, until_s)) is None:
            return JobState.unknown, None  # exit.json says it
        if job.was_cancelled:
            return JobState.cancelled, None
        if (seen := remembered(job)) is not None:
            return self._settled(job, seen, missing, None)
        if read_ownership(job.folder) is None and time.time() - job.record.created_s < STARTING_S:
            return JobState.starting, None
        state = JobState.lost if missing.is_missing else JobState.unknown
        return state, f"SkyPilot has no machines of it, and how it ended is not known: {missing.reason}"

    def _stream(self, job: JobFolder, found: SkyJob, last: int | None, follow: bool) -> Iterator[str]:
        if job.record.resources.spot:
            return self.client.job_logs(managed_id(job, found.ownership), last, follow)
        if (own := own_job(job, found)) is None:
            raise CommandError(f"{job.record.id} has no log yet: its cluster is {found.state}; try again")
        return self.client.cluster_logs(found.ownership.name, own.id, last, follow)
