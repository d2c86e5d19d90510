"""SkyPilot as the back end sees it: program.py in SkyPilot's environment, asked by ids and whole names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from wf_deployer.backends.isolated import IsolatedProgram, LateError, ProgramError
from wf_deployer.backends.looking import ASKING_TIMEOUT_S, NoAnswerError, late
from wf_deployer.backends.ownership import Ownership
from wf_deployer.backends.sky.infra import Infra
from wf_deployer.errors import CommandError, CommandRequestError

OWNERSHIP_FIELDS = ("id", "name", "user", "endpoint", "submitted_s", "token", "restarts")


class SkyError(NoAnswerError):
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


@dataclass(frozen=True)
class Wanted:
    """What an operation of the program looks for: by a whole name or an id, and a token if one is given."""

    operation: str
    by: str | int
    token: str | None = None


Found = TypeVar("Found", bound=SkyJob)


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

    def find(self, wanted: Wanted, read: Callable[[dict[str, Any]], Found]) -> Found | None:
        """What is there now. Args: read: makes it of a program's answer."""
        answer = self.find_each({"": wanted}, ASKING_TIMEOUT_S, read)[""]
        if isinstance(answer, CommandError):
            raise answer
        return answer

    def find_each(
        self, wanted: Mapping[str, Wanted], timeout_s: float, read: Callable[[dict[str, Any]], Found]
    ) -> dict[str, Found | CommandError | None]:
        """Asks once: of many clusters, managed jobs or services SkyPilot gets one request each.

        Returns: by the keys of `wanted` what is there now, None: it is not, or the error of this one.
        """
        answers = self._program.ask_each(_requests(list(wanted.values())), timeout_s=timeout_s)
        found: dict[str, Found | CommandError | None] = {}
        for key, answer in zip(wanted, answers, strict=True):
            if isinstance(answer, CommandError):
                found[key] = self._explained(answer)
            else:
                found[key] = None if answer is None else read(answer)
        return found

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
        except CommandError as error:
            raise self._explained(error) from error

    def _stream(self, operation: str, **arguments: Any) -> Iterator[str]:
        try:
            yield from self._program.stream({"operation": operation, "arguments": arguments})
        except ProgramError as error:
            raise self._explained(error) from error

    def _explained(self, error: CommandError) -> CommandError:
        """In words for the user; what is no wrong request is a SkyError."""
        if isinstance(error, CommandRequestError):
            return error
        if isinstance(error, LateError):
            return SkyError(late("SkyPilot", error.timeout_s))
        if not isinstance(error, ProgramError):
            return SkyError(str(error))
        if error.kinds[0].endswith(".NoAccessError"):
            cloud = self._infra.cloud
            look = f"uv tool run --from '{self._infra.requirement}' sky check {cloud}".strip()
            return CommandRequestError(
                f"SkyPilot has no access to {cloud or 'any cloud'}: `{look}` says what it lacks"
            )
        return SkyError(f"SkyPilot: {error.reason or error.kinds[0]}")


def _requests(wanted: list[Wanted]) -> list[dict[str, Any]]:
    """Each with what else is looked for by the same operation, so that the program asks for all at once."""
    requests = []
    for one in wanted:
        arguments: dict[str, Any] = {"by": one.by}
        arguments["among"] = [other.by for other in wanted if other.operation == one.operation]
        if one.token is not None:
            arguments["token"] = one.token
        requests.append({"operation": one.operation, "arguments": arguments})
    return requests


def sky_job(found: dict[str, Any]) -> SkyJob:
    """Of a program's answer."""
    ownership = Ownership(**{name: found[name] for name in OWNERSHIP_FIELDS})
    jobs = tuple(ClusterJob(**job) for job in found["jobs"])
    return SkyJob(ownership, found["me"], found["state"], jobs, found["reason"])
