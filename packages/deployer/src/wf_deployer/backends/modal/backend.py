"""Modal as a back end of `wf train`.

Besides what every job has, the folder of a job holds `app.py` (the app), `modal.json` (ids that Modal gave,
written by program.py as soon as it has them), `submitted.json` (whose job it is), `cancel.json` (`wf cancel`
was asked). What it prints stays with Modal; how it ended is written down when it is first seen.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from wf_deployer.backends.base import JobSpec, JobState, JobStatus, NoUpload, Resources
from wf_deployer.backends.ending import require_running, wait_for_end
from wf_deployer.backends.fields import from_json
from wf_deployer.backends.looking import NoAnswerError, answer_of, asked_for, time_left_s
from wf_deployer.backends.modal import client
from wf_deployer.backends.modal.client import (
    Found,
    ModalError,
    RefusedError,
    Submitted,
    UnknownToModalError,
)
from wf_deployer.backends.modal.generate import (
    VOLUME_PREFIX,
    check_command,
    copy_checkout,
    files_to_send,
    job_values,
    run_in_volume,
    volume_of,
    write_app,
)
from wf_deployer.backends.modal.settings import settings_of
from wf_deployer.backends.modal.writers import require_one_writer
from wf_deployer.backends.ownership import (
    Ownership,
    differences,
    read_ownership,
    require_ours,
    require_recorded_of,
    write_ownership,
)
from wf_deployer.backends.record import Exit, JobFolder, JobRecord
from wf_deployer.backends.stored import get_upload
from wf_deployer.backends.work import copy_inputs, output_place, results_url
from wf_deployer.errors import CommandError, CommandRequestError
from wf_deployer.workspace import workspace_root
from wf_formats.locks import is_locked
from wf_formats.printable import printable

INPUTS_FOLDER = "inputs"
"""In a job's folder, beside its app: what is sent with it, until Modal has it (image_part.py)."""
_POLL_S = 5.0
_STARTING_S = 60.0
"""A job younger than this, or whose program.py is at work, is being submitted; an older one was not."""


class ModalBackend:
    """Implements `Backend`."""

    def check(self, resources: Resources) -> None:
        settings_of(resources)

    def preview(self, spec: JobSpec) -> str:
        files = files_to_send(workspace_root())
        check_command(spec, workspace_root())
        values = job_values(spec, settings_of(spec.resources))
        with tempfile.TemporaryDirectory() as folder:
            app = write_app(Path(folder), JobRecord(**vars(spec)), values)
            read = client.inspect(app)
            source = app.read_text()
        num_bytes = sum((workspace_root() / path).stat().st_size for path in files)
        return (
            f"{source}\n# read by modal {read['version']}; with it go {len(files)} files of the checkout "
            f"({num_bytes / 1e6:.1f} MB)\n"
        )

    def output_of(self, job_id: str, given: str | None, cwd: str) -> str:
        volume = settings_of(Resources()).volume
        return output_place(given, cwd, f"{VOLUME_PREFIX}{volume}", sees_paths=False)

    def fetch(self, job_id: str, there: Path) -> NoUpload | None:
        record = JobFolder.of(job_id).record
        if (volume := volume_of(record.upload or "")) is None:
            return get_upload(results_url(record), there)
        with tempfile.TemporaryDirectory(dir=JobFolder.of(job_id).folder) as copy:
            if client.fetch(volume, run_in_volume(record), Path(copy, "upload")) == 0:
                return NoUpload(True, f"the volume {volume} has no {run_in_volume(record)}")
            return get_upload(str(Path(copy, "upload")), there)

    def results(self, spec: JobSpec) -> str | None:
        volume, run = settings_of(spec.resources).volume, run_in_volume(spec)
        return f"uv tool run modal volume get {volume} {run} (a volume of Modal)"

    def submit(self, spec: JobSpec) -> None:
        client.require_token()
        settings = settings_of(spec.resources)
        files = files_to_send(workspace_root())
        check_command(spec, workspace_root())
        values = job_values(spec, settings)
        if spec.inputs is None:
            require_one_writer(spec, self.look)
        job = JobFolder.create(replace(spec, run_folder=None))
        try:
            app = write_app(job.folder, job.record, values)
            copy_checkout(workspace_root(), files, job.folder)
            if spec.inputs is not None:
                copy_inputs(spec, job.folder / INPUTS_FOLDER)
        except BaseException:
            shutil.rmtree(job.folder)
            raise
        try:
            client.submit(app, job.folder / "modal.json")
        except CommandError as error:
            _after_failed_submission(job, error)
        except KeyboardInterrupt:
            if client.read_submitted(job.folder / "modal.json") is None:  # Modal has made no app
                shutil.rmtree(job.folder)
            raise
        finally:
            _clear(job)
        try:
            _require_ours_of(job)
        except ModalError as error:
            raise CommandError(_submitted_all_the_same(job, error)) from error

    def status(self, job_id: str) -> JobStatus:
        return self.look([job_id])(job_id)

    def look(self, job_ids: Sequence[str], until_s: float = math.inf) -> Callable[[str], JobStatus]:
        apps, damaged = asked_for(job_ids, _app_of)
        answers = client.look_each(apps, time_left_s(until_s)) | damaged
        return lambda job_id: self._status(JobFolder.of(job_id), partial(answer_of, job_id, answers))

    def _status(self, job: JobFolder, fetch: Callable[[], Found]) -> JobStatus:
        if not _is_young(job) and not is_locked(job.folder / "modal.json.lock"):
            _clear(job)  # of a submission that was killed
        if (end := job.exit) is not None:
            return _status(job, end.state, end=end)
        try:
            return _status_by_modal(job, fetch)
        except UnknownToModalError as error:
            return _status(job, JobState.lost, str(error))
        except (NoAnswerError, CommandRequestError) as error:  # no network, no uv
            return _status(job, JobState.unknown, str(error))

    def logs(self, job_id: str, last: int | None, follow: bool) -> Iterator[str]:
        job = JobFolder.of(job_id)
        submitted, found = _require_ours_of(job)
        return client.logs(found.ownership.id, submitted.created_s, last, follow)

    def cancel(self, job_id: str, timeout_s: float, kill: bool) -> JobState:
        job = JobFolder.of(job_id)
        if (end := job.exit) is not None:
            require_running(job_id, end.state)
        submitted, found = _require_ours_of(job)
        state, _ = _judged(job, found)
        require_running(job_id, state)
        with job.asking_for_its_end():
            if state is JobState.pending:  # nothing to save
                client.kill(found.ownership.id)
            else:
                client.ask_to_stop(submitted.app_id)
        state = wait_for_end(lambda: self.status(job_id).state, timeout_s, _POLL_S)
        if not state.is_over and kill:
            _, found = _require_ours_of(job)
            client.kill(found.ownership.id)
            state = wait_for_end(lambda: self.status(job_id).state, timeout_s, _POLL_S)
        return state


def _clear(job: JobFolder) -> None:
    """What Modal has."""
    for name in ("checkout", INPUTS_FOLDER):
        shutil.rmtree(job.folder / name, ignore_errors=True)


def _app_of(job: JobFolder) -> str | None:
    """None: there is none, or its end is written down."""
    submitted = client.read_submitted(job.folder / "modal.json")
    return submitted.app_id if submitted is not None and job.exit is None else None


def _after_failed_submission(job: JobFolder, error: CommandError) -> None:
    """Removes the record of a job that Modal has not; keeps it where that is not known."""
    submitted = client.read_submitted(job.folder / "modal.json")
    if submitted is not None and submitted.call_id is not None:
        raise CommandError(_submitted_all_the_same(job, error)) from error
    if submitted is not None and not isinstance(error, RefusedError):
        raise CommandError(
            f"{error}; whether Modal has made the call is not known: look at its app {submitted.app_id} "
            "(`uv tool run modal app list`)"
        ) from error
    shutil.rmtree(job.folder)
    raise CommandRequestError(f"nothing was submitted: {error}") from error


def _submitted_all_the_same(job: JobFolder, error: CommandError) -> str:
    return f"{job.folder.name} was submitted, but then: {error}; do not submit it again: `wf runs` finds it"


def _ownership(job: JobFolder, submitted: Submitted, found: Found) -> Ownership:
    """As it was written down; first from what program.py wrote down, the call else from the app's own tag."""
    recorded, record = read_ownership(job.folder), job.record
    if recorded is None:
        return Ownership(
            id=submitted.call_id or found.ownership.id,
            name=record.name,
            user=submitted.user,
            endpoint=submitted.workspace,
            submitted_s=submitted.created_s,
            token=record.token,
        )
    require_recorded_of(record, recorded, job.folder, submitted.call_id or None)
    return recorded


def _require_ours_of(job: JobFolder) -> tuple[Submitted, Found]:
    """The job as Modal shows it now. Raises: CommandError unless all agrees with what was written down."""
    submitted = client.read_submitted(job.folder / "modal.json")
    if submitted is None:
        raise CommandError(
            f"refused: {job.folder.name} has no app that was written down; nothing was touched"
        )
    found = client.look(submitted.app_id)
    ownership = _ownership(job, submitted, found)
    require_ours(ownership, found.ownership)
    if not ownership.id:
        raise CommandError(f"refused: the app {submitted.app_id} has no call; nothing was touched")
    if read_ownership(job.folder) is None:
        write_ownership(job.folder, ownership)
    return submitted, found


def _status_by_modal(job: JobFolder, fetch: Callable[[], Found]) -> JobStatus:
    submitted = client.read_submitted(job.folder / "modal.json")
    if submitted is None:
        if _is_young(job) or is_locked(job.folder / "modal.json.lock"):
            return _status(job, JobState.starting)
        return _status(job, JobState.lost, "wf was ended before Modal had made its app; submit it again")
    found = fetch()
    if told := differences(_ownership(job, submitted, found), found.ownership):
        return _status(job, JobState.lost, f"Modal's app {submitted.app_id}: {'; '.join(told)}")
    if not found.ownership.id:
        return _status(job, JobState.lost, f"Modal's app {submitted.app_id} has no call")
    state, problem = _judged(job, found)
    return _status(job, state, problem, job.exit)


def _is_young(job: JobFolder) -> bool:
    return time.time() - job.record.created_s < _STARTING_S


def _judged(job: JobFolder, found: Found) -> tuple[JobState, str | None]:
    """State of a job that is ours, and what there is to say; an end is written down."""
    if found.state in ("pending", "running"):
        return JobState(found.state), None
    if found.state == "ended":
        end = _exit(found.exit, job)
        job.write_exit(end)
        return end.state, None
    if found.state == "failed" and job.was_cancelled:
        return JobState.cancelled, None
    if found.state == "failed":
        return JobState.failed, printable(found.reason or "")
    return JobState.lost, "Modal keeps results for 7 days, and nobody looked at this one's"


def _exit(values: Any, job: JobFolder) -> Exit:
    return from_json(Exit, values, Path(f"what Modal returned of {job.folder.name}"))


def _status(
    job: JobFolder, state: JobState, problem: str | None = None, end: Exit | None = None
) -> JobStatus:
    log = f"wf logs {job.folder.name}"
    if end is None:
        return JobStatus(state, log, problem=problem)
    return JobStatus(state, log, exit_code=end.returncode, ended_s=end.ended_s, problem=problem)
