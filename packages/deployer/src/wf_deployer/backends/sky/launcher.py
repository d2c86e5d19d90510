"""What jobs and services that SkyPilot launches have in common: preview, submission, whose they are."""

from __future__ import annotations

import math
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic

from wf_deployer.backends.base import JobSpec, JobState, JobStatus
from wf_deployer.backends.ending import wait_for_end
from wf_deployer.backends.looking import answer_of, asked_for, time_left_s
from wf_deployer.backends.ownership import read_ownership
from wf_deployer.backends.record import JobFolder, JobRecord, runs_folder
from wf_deployer.backends.sky.client import Found, SkyClient, Wanted
from wf_deployer.backends.sky.ours import UNSETTLED, adopt
from wf_deployer.backends.sky.task import SkyTask
from wf_deployer.backends.sky.workdir import copy_checkout
from wf_deployer.errors import CommandError
from wf_deployer.workspace import workspace_root
from wf_formats.atomic import atomic_write_text
from wf_formats.locks import holding, is_locked

_POLL_S = 5.0
STARTING_S = 600.0
"""What is younger than this and not known to SkyPilot is being launched, what is older is lost."""
_LAUNCH_LOCK = "launch.lock"


class Launcher(ABC, Generic[Found]):
    """Attributes: by: What launches, for people; client: asks it."""

    by: ClassVar[str]
    client: SkyClient

    def status(self, job_id: str) -> JobStatus:
        return self.look([job_id])(job_id)

    def look(self, job_ids: Sequence[str], until_s: float = math.inf) -> Callable[[str], JobStatus]:
        wanted, damaged = asked_for(job_ids, self._asked_for)
        answers = self.client.find_each(wanted, time_left_s(until_s), self._read) | damaged
        return lambda job_id: self._status(JobFolder.of(job_id), partial(answer_of, job_id, answers), until_s)

    def preview(self, spec: JobSpec) -> str:
        return self.client.preview(self._previewed(spec))

    def _submit(self, spec: JobSpec) -> None:
        """As `Backend.submit`, of what is asked for as it is recorded."""
        self.client.require_valid(self._previewed(spec))
        job = JobFolder.create(spec)
        folder = job.folder.absolute()
        try:
            task = self._task(job.record, folder).to_yaml()
            atomic_write_text(folder / "task.yaml", task)
            self._send(job.record, folder / "workdir")
        except BaseException:
            shutil.rmtree(folder)
            raise
        with holding(folder / _LAUNCH_LOCK):
            try:
                found = self._launch(job, task)
            except CommandError as error:
                self._after_failed_launch(job, error)
                return
        if found is None:
            raise CommandError(f"{spec.id} was launched, and {self.by} does not know it any more")
        adopt(job, found)
        shutil.rmtree(folder / "workdir", ignore_errors=True)

    def _previewed(self, spec: JobSpec) -> str:
        return self._task(JobRecord(**vars(spec)), runs_folder().absolute() / spec.id).to_yaml()

    def _is_being_launched(self, job: JobFolder) -> bool:
        return is_locked(job.folder / _LAUNCH_LOCK)

    def _waited(self, job_id: str, timeout_s: float) -> JobState:
        """The state when the end has come, or the time."""
        return wait_for_end(lambda: self.status(job_id).state, timeout_s, _POLL_S)

    def _require(self, job: JobFolder) -> Found:
        """Raises: CommandError unless it is there and ours."""
        if (found := self._fetch(job)) is None:
            later = "" if read_ownership(job.folder) is not None else UNSETTLED
            raise CommandError(
                f"refused: {self.by} has no {job.record.name} (any more); nothing was touched{later}"
            )
        adopt(job, found)
        return found

    def _send(self, record: JobRecord, workdir: Path) -> None:
        """Makes the folder that goes to the machines."""
        copy_checkout(workspace_root(), workdir)

    def _fetch(self, job: JobFolder) -> Found | None:
        """What the record is of, as it is now; whose it is has to be compared."""
        return self.client.find(self._wanted(job), self._read)

    def _asked_for(self, job: JobFolder) -> Wanted | None:
        self._check(job)
        return self._wanted(job) if job.exit is None else None

    def _check(self, job: JobFolder) -> None:
        """Before anybody is asked. Raises: CommandError if its record is damaged."""

    @abstractmethod
    def _wanted(self, job: JobFolder) -> Wanted:
        """By what it is looked for."""

    @staticmethod
    @abstractmethod
    def _read(found: dict[str, Any]) -> Found:
        """An answer of the program."""

    @abstractmethod
    def _status(self, job: JobFolder, fetch: Callable[[], Found | None], until_s: float) -> JobStatus:
        """By an answer, if one was asked for. Args: until_s: nobody is asked for more after this."""

    @abstractmethod
    def _task(self, record: JobRecord, folder: Path) -> SkyTask:
        """What is launched."""

    @abstractmethod
    def _launch(self, job: JobFolder, task: str) -> Found | None:
        """Launch the task's YAML, and look at what there is then."""

    @abstractmethod
    def _after_failed_launch(self, job: JobFolder, error: CommandError) -> None:
        """Settles what is there all the same.

        Raises: CommandError where nothing is, or where that is not known.
        """
