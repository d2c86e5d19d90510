"""SkyPilot's package, as far as program.py calls it, on a table of clusters, managed jobs and services of two
users.

Like SkyPilot it asks for no permission: a cluster or a service goes down for whoever names it, `jobs.cancel`
takes a name, or nothing as "all". Those of others live only if nobody asks for them.
"""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import yaml

from wf_deployer.backends.isolated import ProgramError
from wf_deployer.errors import CommandError

ME, BOB = "1a2b3c4d", "b0bb0bb0"
NOW = 1_800_000_000


class ClusterNotUpError(RuntimeError):
    """Of sky.exceptions."""


def record(**values: Any) -> SimpleNamespace:
    return SimpleNamespace(**values)


def status(value: str) -> SimpleNamespace:
    return SimpleNamespace(value=value)


@dataclass
class FakeSky:
    """The table. Attributes: me is who calls; what goes wrong is a function that is called instead."""

    me: str = ME
    url: str = "http://127.0.0.1:46580"
    clusters: dict[str, SimpleNamespace] = field(default_factory=dict)
    queues: dict[str, list[SimpleNamespace]] = field(default_factory=dict)
    jobs: dict[int, SimpleNamespace] = field(default_factory=dict)
    services: dict[str, dict[str, Any]] = field(default_factory=dict)
    enabled: list[str] = field(default_factory=lambda: ["Nebius", "GCP", "Slurm", "Kubernetes"])
    logs: list[str] = field(default_factory=lambda: ["one\n", "two\n"])
    calls: list[str] = field(default_factory=list)
    secrets: dict[str, str] = field(default_factory=dict)
    on_launch: Callable[[], None] | None = None
    on_status: Callable[[], None] | None = None
    next_job: int = 17

    def add_cluster(self, name: str, user: str, task: str = "name: other", hash: str = "0" * 8) -> None:
        self.clusters[name] = record(
            name=name,
            cluster_hash=hash,
            user_hash=user,
            launched_at=NOW,
            status=status("UP"),
            last_creation_yaml=task,
        )
        self.queues[name] = []

    def add_to_queue(self, cluster: str, name: str, user: str, state: str = "RUNNING") -> SimpleNamespace:
        queue = self.queues[cluster]
        job = record(job_id=len(queue) + 1, job_name=name, user_hash=user, status=status(state))
        queue.append(job)
        return job

    def add_job(self, job_id: int, user: str, name: str = "wf-train", task: str = "name: x") -> None:
        self.jobs[job_id] = record(
            job_id=job_id,
            job_name=name,
            user_hash=user,
            submitted_at=float(NOW),
            end_at=None,
            recovery_count=0,
            failure_reason=None,
            status=status("RUNNING"),
            user_yaml=task,
        )

    def add_service(self, name: str, user: str, task: str = "name: x", hash: str = "h0") -> dict[str, Any]:
        self.services[name] = {
            "name": name,
            "hash": hash,
            "controller_job_id": 1,
            "user_hash": user,
            "yaml_content": task,
            "status": status("READY"),
            "endpoint": f"http://10.0.0.1:3000{len(self.services)}",
            "replica_info": [
                {"replica_id": number, "status": status(state)}
                for number, state in ((1, "READY"), (2, "PROVISIONING"))
            ],
        }
        return self.services[name]

    def states(self, user: str) -> dict[Any, str]:
        """Of everything that a user has."""
        queued = {(name, job.job_id): job for name, queue in self.queues.items() for job in queue}
        everything = {**self.clusters, **queued, **self.jobs}
        found = {key: entry.status.value for key, entry in everything.items() if entry.user_hash == user}
        return found | {
            f"service {name}": service["status"].value
            for name, service in self.services.items()
            if service["user_hash"] == user
        }

    def launch(self, task: Any, cluster_name: str) -> Callable[[], Any]:
        def launched() -> Any:
            self.calls.append("launch")
            self.add_cluster(cluster_name, self.me, task.text, hash=f"c{self.next_job}")
            self.next_job += 1
            if self.on_launch is not None:
                self.on_launch()
            self.add_to_queue(cluster_name, task.name, self.me)
            return 1, None

        return launched

    def launch_job(self, task: Any, name: str, job_group: Any) -> Callable[[], Any]:
        def launched() -> Any:
            assert job_group is None
            self.calls.append("jobs.launch")
            job_id, self.next_job = self.next_job, self.next_job + 1
            self.add_job(job_id, self.me, name, task.text)
            if self.on_launch is not None:
                self.on_launch()
            return [job_id], None

        return launched

    def status(self, names: list[str], refresh: Any, all_users: bool) -> Callable[[], Any]:
        if self.on_status is not None:
            self.on_status()
        found = [self.clusters[name] for name in names if name in self.clusters]
        return lambda: [one for one in found if all_users or one.user_hash == self.me]

    def queue(self, name: str, all_users: bool) -> Callable[[], Any]:
        return lambda: [job for job in self.queues[name] if all_users or job.user_hash == self.me]

    def cancel(self, name: str, job_ids: list[int] | None = None) -> Callable[[], Any]:
        self.calls.append(f"cancel {name} {job_ids}")

        def cancelled() -> None:
            for job in self.queues[name]:
                if job_ids is None or job.job_id in job_ids:
                    job.status = status("CANCELLED")

        return cancelled

    def down(self, name: str) -> Callable[[], Any]:
        self.calls.append(f"down {name}")

        def gone() -> None:
            del self.clusters[name], self.queues[name]

        return gone

    def queue_v2(self, refresh: bool, all_users: bool, fields: Any, **choice: Any) -> Callable[[], Any]:
        assert not refresh  # would start a controller that sleeps
        if self.on_status is not None:
            self.on_status()
        ids, name = choice.get("job_ids"), choice.get("name_match", "")
        found = [
            job for job in self.jobs.values() if (ids is None or job.job_id in ids) and name in job.job_name
        ]
        return lambda: (found, len(found), {}, len(self.jobs))

    def cancel_job(self, name: str | None = None, job_ids: list[int] | None = None) -> Callable[[], Any]:
        self.calls.append(f"jobs.cancel {name} {job_ids}")

        def cancelled() -> None:
            for job in self.jobs.values():
                if (job_ids is None or job.job_id in job_ids) and name in (None, job.job_name):
                    job.status = status("CANCELLED")

        return cancelled

    def serve_up(self, task: Any, service_name: str) -> Callable[[], Any]:
        def launched() -> Any:
            self.calls.append("serve.up")
            self.add_service(service_name, self.me, task.text, hash=f"h{self.next_job}")
            self.next_job += 1
            if self.on_launch is not None:
                self.on_launch()
            return service_name, self.services[service_name]["endpoint"]

        return launched

    def serve_status(self, names: list[str] | None) -> Callable[[], Any]:
        if self.on_status is not None:
            self.on_status()

        def found() -> Any:
            if not self.services:
                raise ClusterNotUpError("no controller")
            return [one for name, one in self.services.items() if names is None or name in names]

        return found

    def serve_down(self, names: list[str] | None, all: bool = False) -> Callable[[], Any]:
        self.calls.append(f"serve.down {names}")

        def gone() -> None:
            for name in list(self.services) if all or names is None else names:
                del self.services[name]

        return gone

    def serve_logs(
        self, name: str, target: str, replica_id: int, follow: bool, output_stream: Any, tail: int | None
    ) -> None:
        assert target == "replica"
        for line in self.logs[-tail:] if tail else self.logs:
            output_stream.write(f"{name} {replica_id} {line}")

    def tail(self, tail: int | None) -> Iterator[str | None]:
        yield from self.logs[-tail:] if tail else self.logs
        yield None

    def task(self, config: dict[str, Any], secrets_overrides: list[tuple[str, str]] | None = None) -> Any:
        self.secrets = dict(secrets_overrides or [])
        return record(name=config["name"], text=yaml.safe_dump(config))

    @property
    def modules(self) -> dict[str, ModuleType]:
        """As `sys.modules` has them."""

        class StatusRefreshMode(Enum):
            FORCE = "force"

        jobs = _module(
            "sky.jobs",
            launch=self.launch_job,
            queue_v2=self.queue_v2,
            cancel=self.cancel_job,
            tail_logs=lambda job_id, follow, tail, preload_content: self.tail(tail),
        )
        server = _module("sky.server", common=_module("sky.server.common", get_server_url=lambda: self.url))
        common_utils = _module("sky.utils.common_utils", get_user_hash=lambda: self.me)
        sdk = _module(
            "sky.client.sdk",
            launch=self.launch,
            status=self.status,
            queue=self.queue,
            cancel=self.cancel,
            down=self.down,
            enabled_clouds=lambda: lambda: list(self.enabled),
            check=lambda infra, verbose: lambda: self.calls.append(f"check {infra}"),
            api_info=lambda: record(user=None),
            tail_logs=lambda name, job_id, follow, tail, preload_content: self.tail(tail),
            get=lambda request: request(),
            stream_and_get=lambda request: request(),
        )
        client = _module("sky.client", sdk=sdk)
        utils = _module("sky.utils", common_utils=common_utils)
        sky = _module(
            "sky",
            __version__="0.14.1",
            StatusRefreshMode=StatusRefreshMode,
            Task=SimpleNamespace(from_yaml_config=self.task),
            client=client,
            jobs=jobs,
            server=server,
            utils=utils,
        )
        serve = _module(
            "sky.serve",
            up=self.serve_up,
            status=self.serve_status,
            down=self.serve_down,
            tail_logs=self.serve_logs,
        )
        sky.serve, sky.exceptions = serve, _module("sky.exceptions", ClusterNotUpError=ClusterNotUpError)
        every = (sky, serve, sky.exceptions, client, sdk, jobs, server, server.common, utils, common_utils)
        return {module.__name__: module for module in every}


def _module(name: str, **values: Any) -> Any:
    module = ModuleType(name)
    vars(module).update(values)
    return module


class InProcess:
    """Stands for `IsolatedProgram`: program.py here, with the fake for SkyPilot; everything as JSON."""

    def __init__(self, fake: FakeSky, path: Path) -> None:
        self.fake, self.path = fake, path

    def ask(self, request: Any, *, shown: bool = False, timeout_s: float | None = None) -> Any:
        (answer,) = self.stream(request, shown=shown)
        return answer

    def ask_each(self, requests: Any, *, timeout_s: float) -> list[Any]:
        answers: list[Any] = []
        program = runpy.run_path(str(self.path))["answers"]
        for request in requests:
            try:
                (answer,) = self._answers(program, request)
                answers.append(answer)
            except CommandError as error:
                answers.append(error)
        return answers

    def stream(self, request: Any, *, shown: bool = False) -> Iterator[Any]:
        yield from self._answers(runpy.run_path(str(self.path))["answers"], request)

    def _answers(self, program: Any, request: Any) -> Iterator[Any]:
        with _installed(self.fake.modules):
            try:
                for answer in program(json.loads(json.dumps(request))):
                    yield json.loads(json.dumps(answer))
            except Exception as error:
                kinds = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__]
                raise ProgramError(kinds, str(error)) from error


@contextmanager
def _installed(modules: dict[str, ModuleType]) -> Iterator[None]:
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]
