"""SkyPilot as the back end sees it: program.py in SkyPilot's environment, asked by ids and whole names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wf_deployer.backends.isolated import IsolatedProgram, ProgramError
from wf_deployer.backends.ownership import Ownership
from wf_deployer.backends.sky.infra import Infra
from wf_deployer.errors import CommandError, CommandRequestError

ASKING_TIMEOUT_S = 90.0
"""Of a question; SkyPilot's client would wait for its server as long as it takes."""
OWNERSHIP_FIELDS = ("id", "name", "user", "endpoint", "submitted_s", "token", "restarts")


class SkyError(CommandError):
    """SkyPilot refused or failed; in its words."""


@dataclass(frozen=True)
class ClusterJob:
    """A job in the queue of a cluster; `state` such as "RUNNING"."""

    id: int
    name: str
    user: str
    state: str


@dataclass(frozen=True)
class SkyJob:
    """A managed job, or a cluster that was launched for one job.

    Attributes:
        me: Who we are, as the server calls its users.
        state: In SkyPilot's words, such as "UP" of a cluster, "RECOVERING" of a managed job.
        jobs: In the queue of a cluster that is up.
        reason: Why it failed.
    """

    ownership: Ownership
    me: str
    state: str
    jobs: tuple[ClusterJob, ...] = ()
    reason: str | None = None


class SkyClient:
    """Raises, in all methods: CommandRequestError where uv or SkyPilot cannot be had; SkyError."""

    path = Path(__file__).with_name("program.py")

    def __init__(self, infra: Infra) -> None:
        self._infra = infra
        self._program = IsolatedProgram(infra.requirement, self.path)

    def check_task(self, task: str) -> str:
        """Holds a task's YAML against SkyPilot's schemas. Returns its version."""
        version: str = self._ask("check_task", task=task)
        return version

    def require_valid(self, task: str) -> None:
        """Raises: CommandRequestError for a task that SkyPilot's schemas refuse."""
        try:
            self.check_task(task)
        except SkyError as error:
            raise CommandRequestError(str(error)) from error

    def preview(self, task: str) -> str:
        """The task, with what its check has said. Raises: CommandRequestError if it is refused."""
        try:
            told = f"valid to SkyPilot {self.check_task(task)}"
        except SkyError as error:
            raise CommandRequestError(str(error)) from error
        except CommandRequestError as error:
            told = f"not checked by SkyPilot: {error}"
        return f"# {told}; nothing was launched\n{task}"

    def launch_cluster(self, task: str, name: str) -> None:
        """Returns when its machines run and its job is submitted; progress goes to standard error."""
        self._ask("launch_cluster", shown=True, task=task, name=name, cloud=self._infra.cloud)

    def launch_job(self, task: str, name: str) -> int:
        """Submits a managed job. Returns its id."""
        job_id: int = self._ask("launch_job", shown=True, task=task, name=name, cloud=self._infra.cloud)
        return job_id

    def cluster(self, name: str) -> SkyJob | None:
        return _sky_job(self._ask("cluster", ASKING_TIMEOUT_S, name=name))

    def job(self, job_id: int) -> SkyJob | None:
        return _sky_job(self._ask("job", ASKING_TIMEOUT_S, job_id=job_id))

    def job_by_token(self, name: str, token: str) -> SkyJob | None:
        return _sky_job(self._ask("job_by_token", ASKING_TIMEOUT_S, name=name, token=token))

    def cancel_job(self, job_id: int) -> None:
        self._ask("cancel_job", job_id=job_id)

    def cancel_cluster_job(self, name: str, job_id: int) -> None:
        self._ask("cancel_cluster_job", name=name, job_id=job_id)

    def down(self, name: str) -> None:
        self._ask("down", name=name)

    def cluster_logs(self, name: str, job_id: int, last: int | None, follow: bool) -> Iterator[str]:
        return self._stream("cluster_logs", name=name, job_id=job_id, last=last, follow=follow)

    def job_logs(self, job_id: int, last: int | None, follow: bool) -> Iterator[str]:
        return self._stream("job_logs", job_id=job_id, last=last, follow=follow)

    def _ask(
        self, operation: str, timeout_s: float | None = None, shown: bool = False, **arguments: Any
    ) -> Any:
        request = {"operation": operation, "arguments": arguments}
        try:
            return self._program.ask(request, shown=shown, timeout_s=timeout_s)
        except ProgramError as error:
            raise self._told(error) from error
        except CommandRequestError:
            raise
        except CommandError as error:  # it is late, or was ended
            raise SkyError(str(error)) from error

    def _stream(self, operation: str, **arguments: Any) -> Iterator[str]:
        try:
            yield from self._program.stream({"operation": operation, "arguments": arguments})
        except ProgramError as error:
            raise self._told(error) from error

    def _told(self, error: ProgramError) -> CommandError:
        if error.kinds[0].endswith(".NoAccessError"):
            cloud = self._infra.cloud
            look = f"uv tool run --from '{self._infra.requirement}' sky check {cloud}".strip()
            return CommandRequestError(
                f"SkyPilot has no access to {cloud or 'any cloud'}: `{look}` says what it lacks"
            )
        return SkyError(f"SkyPilot: {error.reason or error.kinds[0]}")


def _sky_job(found: dict[str, Any] | None) -> SkyJob | None:
    if found is None:
        return None
    ownership = Ownership(**{name: found[name] for name in OWNERSHIP_FIELDS})
    jobs = tuple(ClusterJob(**job) for job in found["jobs"])
    return SkyJob(ownership, found["me"], found["state"], jobs, found["reason"])
