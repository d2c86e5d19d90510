"""Modal as the back end of `wf serve --cloud modal`: each service is a deployed app with one web function.

Its folder holds what a job's does; `modal.json` is written when the app is there. An app that could not be
written down is found by its name, which is unique, and its token. `wf cancel` stops the app, which is the
service's own, and removes the model that was sent for it.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from wf_deployer.backends.base import JobSpec, JobState, JobStatus, Resources
from wf_deployer.backends.ending import require_running, wait_for_end
from wf_deployer.backends.looking import NoAnswerError, answer_of, asked_for, time_left_s
from wf_deployer.backends.modal import client, service_client
from wf_deployer.backends.modal.client import RefusedError, UnknownToModalError
from wf_deployer.backends.modal.generate import PYTHON, copy_checkout, files_to_send, write_app
from wf_deployer.backends.modal.service_client import FoundService
from wf_deployer.backends.modal.settings import ModalServiceSettings, service_settings_of
from wf_deployer.backends.ownership import (
    Ownership,
    differences,
    read_ownership,
    require_ours,
    require_recorded_of,
    write_ownership,
)
from wf_deployer.backends.record import Exit, JobFolder, JobRecord
from wf_deployer.backends.service import PORT, Service, start_script
from wf_deployer.errors import CommandError, CommandRequestError
from wf_deployer.workspace import workspace_root
from wf_formats.locks import is_locked

_POLL_S = 5.0
_STARTING_S = 60.0
"""A service younger than this, or whose program.py is at work, is being deployed; an older one was not."""
_STOPPED = 143
_VOLUME = "wf-models"
_MOST_REQUESTS = 64
"""In a container at a time; the server makes others wait in its own queue."""


class ModalServiceBackend:
    """Implements `Backend`."""

    def check(self, resources: Resources) -> None:
        service_settings_of(resources, None)

    def preview(self, spec: JobSpec) -> str:
        files = files_to_send(workspace_root())
        values = _values(spec)
        with tempfile.TemporaryDirectory() as folder:
            app = write_app(Path(folder), JobRecord(**vars(spec)), values, "serve")
            read = client.inspect(app)
            source = app.read_text()
        return f"{source}\n# read by modal {read['version']}; with it go {len(files)} files of the checkout\n"

    def results(self, spec: JobSpec) -> str | None:
        return None

    def submit(self, spec: JobSpec) -> None:
        client.require_token()
        files = files_to_send(workspace_root())
        values = _values(spec)
        job = JobFolder.create(spec)
        service = _service(job.record)
        try:
            app = write_app(job.folder, job.record, values, "serve")
            copy_checkout(workspace_root(), files, job.folder)
        except BaseException:
            shutil.rmtree(job.folder)
            raise
        try:
            service_client.deploy(app, job.folder / "modal.json", service.local_model, _VOLUME, job.record.id)
        except RefusedError as error:
            _after_refusal(job, error)
        finally:
            shutil.rmtree(job.folder / "checkout", ignore_errors=True)
        _require_ours(job)

    def status(self, job_id: str) -> JobStatus:
        return self.look([job_id])(job_id)

    def look(self, job_ids: Sequence[str], until_s: float = math.inf) -> Callable[[str], JobStatus]:
        apps, damaged = asked_for(job_ids, lambda job: _app_of(job) if job.exit is None else None)
        answers = service_client.look_each(apps, time_left_s(until_s)) | damaged
        return lambda job_id: self._status(JobFolder.of(job_id), partial(answer_of, job_id, answers))

    def _status(self, job: JobFolder, fetch: Callable[[], FoundService]) -> JobStatus:
        if (end := job.exit) is not None:
            return _ended(job, end)
        try:
            return _asked_status(job, fetch)
        except (NoAnswerError, CommandRequestError) as error:
            return JobStatus(JobState.unknown, _log(job), problem=str(error))

    def logs(self, job_id: str, last: int | None, follow: bool) -> Iterator[str]:
        found = _require_ours(JobFolder.of(job_id))
        return service_client.logs(found.ownership.id, found.ownership.submitted_s, last, follow)

    def cancel(self, job_id: str, timeout_s: float, kill: bool) -> JobState:
        job = JobFolder.of(job_id)
        if (end := job.exit) is not None:
            require_running(job_id, end.state)
        found = _require_ours(job)
        is_sent = _service(job.record).local_model is not None
        with job.asking_for_its_end():
            service_client.stop(found.ownership.id, _VOLUME if is_sent else None, job.record.id)
        return wait_for_end(lambda: self.status(job_id).state, timeout_s, _POLL_S)


def _values(spec: JobSpec) -> dict[str, Any]:
    """What `service_app.py` calls `JOB`, but for whose it is."""
    service = _service(spec)
    settings: ModalServiceSettings = service_settings_of(spec.resources, service.idle_s)
    if service.qps is not None:
        raise CommandRequestError("--qps is SkyPilot's; on Modal a container more starts when all are busy")
    local = service.local_model
    start = start_script(service, spec.command, _sent(local), '"$(mktemp -d)/model"')
    return {
        **asdict(settings),
        "volume": None if local is None else _VOLUME,
        "folder": spec.id,
        "min_containers": service.min_replicas,
        "max_containers": service.max_replicas,
        "max_inputs": _MOST_REQUESTS,
        "port": PORT,
        "start": f"python={PYTHON}\n{start}",
    }


def _sent(model: Path | None) -> str:
    return "/model" if model is not None else ""


def _service(spec: JobSpec) -> Service:
    assert spec.service is not None
    return spec.service


def _after_refusal(job: JobFolder, error: RefusedError) -> None:
    """Removes the record of a service that Modal has not."""
    try:
        service_client.look(job.record.name)
    except UnknownToModalError:
        shutil.rmtree(job.folder)
        raise CommandRequestError(f"nothing was deployed: {error}") from error
    raise error


def _app_of(job: JobFolder) -> str:
    """Id of its app, or its name where that was not written down; whose it is has to be compared."""
    recorded = read_ownership(job.folder)
    submitted = client.read_submitted(job.folder / "modal.json")
    known = recorded.id if recorded is not None else submitted.app_id if submitted is not None else None
    return known or job.record.name


def _expected(job: JobFolder, found: FoundService) -> Ownership:
    record, recorded = job.record, read_ownership(job.folder)
    if recorded is not None:
        require_recorded_of(record, recorded, job.folder)
        return recorded
    submitted, own = client.read_submitted(job.folder / "modal.json"), found.ownership
    if submitted is None:
        return replace(own, name=record.name, token=record.token)
    return replace(own, id=submitted.app_id, name=record.name, user=submitted.user, token=record.token)


def _require_ours(job: JobFolder) -> FoundService:
    """The app as it is now. Raises: CommandError unless all agrees with what was written down."""
    try:
        found = service_client.look(_app_of(job))
    except UnknownToModalError as error:
        raise CommandError(f"refused: {error}; nothing was touched") from error
    _adopt(job, found)
    return found


def _adopt(job: JobFolder, found: FoundService) -> None:
    """Writes down whose it is, if it was not yet. Raises: CommandError if it is not ours."""
    ownership = _expected(job, found)
    require_ours(ownership, found.ownership)
    if read_ownership(job.folder) is None:
        write_ownership(job.folder, ownership)


def _asked_status(job: JobFolder, fetch: Callable[[], FoundService]) -> JobStatus:
    try:
        found = fetch()
    except UnknownToModalError as error:
        is_young = time.time() - job.record.created_s < _STARTING_S
        if is_young or is_locked(job.folder / "modal.json.lock"):
            return JobStatus(JobState.starting, _log(job))
        return JobStatus(JobState.lost, _log(job), problem=str(error))
    if told := differences(_expected(job, found), found.ownership):
        return JobStatus(JobState.lost, _log(job), problem=f"Modal's app: {'; '.join(told)}")
    _adopt(job, found)
    if not found.is_stopped:
        return JobStatus(JobState.running, _log(job), url=found.url)
    if not job.was_cancelled:
        return JobStatus(JobState.lost, _log(job), problem="its app was stopped, not by wf cancel")
    end = Exit(_STOPPED, True, time.time())
    job.write_exit(end)
    return _ended(job, end)


def _ended(job: JobFolder, end: Exit) -> JobStatus:
    return JobStatus(end.state, _log(job), exit_code=end.returncode, ended_s=end.ended_s)


def _log(job: JobFolder) -> str:
    return f"wf logs {job.folder.name}"
