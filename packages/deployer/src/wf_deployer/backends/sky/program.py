"""Runs in SkyPilot's environment (see isolated.py): a request names an operation below and its arguments.

Jobs are chosen by id, clusters by their whole name, one at a time; SkyPilot's own choices ("all", users,
pools, jobs by name) are not offered here. Imports SkyPilot, what comes with it, and the standard library.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from typing import Any
from urllib.parse import urlsplit

JOB_FIELDS = [
    "job_id",
    "job_name",
    "status",
    "user_hash",
    "submitted_at",
    "end_at",
    "recovery_count",
    "failure_reason",
    "user_yaml",
]
TOKEN_VARIABLE = "WF_JOB_TOKEN"


class NoAccessError(Exception):
    """SkyPilot cannot use a cloud with the credentials that are here."""


def answers(request: dict[str, Any]) -> Iterator[Any]:
    os.environ.pop("PYTHONPATH", None)  # SkyPilot's server, which may be started here, would look there
    yield from OPERATIONS[request["operation"]](**request["arguments"])


def check_task(task: str) -> Iterator[Any]:
    """SkyPilot's own schemas, without its server. Answers its version."""
    import sky

    _task(task)
    yield sky.__version__


def launch_cluster(task: str, name: str, cloud: str) -> Iterator[Any]:
    """Waits until the machines are there and the job is submitted to them."""
    from sky.client import sdk

    _require_access(cloud)
    sdk.stream_and_get(sdk.launch(_task(task), cluster_name=name))
    yield None


def launch_job(task: str, name: str, cloud: str) -> Iterator[Any]:
    """A managed job. Answers its id."""
    from sky import jobs
    from sky.client import sdk

    _require_access(cloud)
    job_ids, _ = sdk.stream_and_get(jobs.launch(_task(task), name=name, job_group=None))
    yield job_ids[0]


def cluster(by: str, among: list[str]) -> Iterator[Any]:
    """A cluster of this very name as its cloud shows it now, with its jobs if it is up; or null.

    Args: among: all the names that are asked for: SkyPilot gets one request for them.
    """
    from sky.client import sdk

    if (found := _clusters(*among).get(by)) is None:
        yield None
        return
    record, queue = found
    yield _cluster(record, record.status.value, sdk.get(queue) if queue is not None else [])


def job(by: int, among: list[int]) -> Iterator[Any]:
    """The managed job with this id, or null. Its controller is not started for it.

    Args: among: as `cluster`.
    """
    found = _jobs_by_id(*among).get(by)
    yield None if found is None else _job(found)


def job_by_token(by: str, among: list[str], token: str) -> Iterator[Any]:
    """The one managed job of that name with that token, or null."""
    jobs = [_job(found) for found in _jobs(name_match=by) if found.job_name == by]
    ours = [found for found in jobs if found["token"] == token]
    yield ours[0] if len(ours) == 1 else None


def cancel_job(job_id: int) -> Iterator[Any]:
    from sky import jobs
    from sky.client import sdk

    sdk.stream_and_get(jobs.cancel(job_ids=[job_id]))
    yield None


def cancel_cluster_job(name: str, job_id: int) -> Iterator[Any]:
    from sky.client import sdk

    sdk.stream_and_get(sdk.cancel(name, job_ids=[job_id]))
    yield None


def down(name: str) -> Iterator[Any]:
    """Gives a cluster's machines back."""
    from sky.client import sdk

    sdk.stream_and_get(sdk.down(name))
    yield None


def cluster_logs(name: str, job_id: int, last: int | None, follow: bool) -> Iterator[Any]:
    from sky.client import sdk

    yield from _pieces(sdk.tail_logs(name, job_id, follow, tail=last or 0, preload_content=False))


def job_logs(job_id: int, last: int | None, follow: bool) -> Iterator[Any]:
    from sky import jobs

    yield from _pieces(jobs.tail_logs(job_id=job_id, follow=follow, tail=last, preload_content=False))


def _pieces(lines: Any) -> Iterator[str]:
    """SkyPilot ends with None."""
    for piece in lines:
        if piece is not None:
            yield piece


def _task(text: str) -> Any:
    import sky
    import yaml

    config = yaml.safe_load(text)
    secrets = [(name, os.environ[name]) for name in config.get("secrets", {})]
    return sky.Task.from_yaml_config(config, secrets_overrides=secrets or None)


def _require_access(cloud: str) -> None:
    """What SkyPilot remembers is enough; otherwise it looks again. Raises: NoAccessError."""
    from sky.client import sdk

    if _is_enabled(cloud, sdk.get(sdk.enabled_clouds())):
        return
    sdk.stream_and_get(sdk.check((cloud,) if cloud else None, verbose=False))
    if not _is_enabled(cloud, sdk.get(sdk.enabled_clouds())):
        raise NoAccessError(cloud)


def _is_enabled(cloud: str, enabled: list[Any]) -> bool:
    names = {str(name).lower() for name in enabled}
    return cloud in names if cloud else bool(names)


@cache
def _clusters(*names: str) -> dict[str, tuple[Any, Any]]:
    """Record, and the request for the queue of one that is up, by name; in one process asked for once."""
    import sky
    from sky.client import sdk

    found = sdk.get(sdk.status(list(names), refresh=sky.StatusRefreshMode.FORCE, all_users=True))
    return {
        record.name: (record, sdk.queue(record.name, all_users=True) if record.status.value == "UP" else None)
        for record in found
        if record.name in names
    }


@cache
def _jobs_by_id(*job_ids: int) -> dict[int, Any]:
    found = reversed(_jobs(job_ids=list(job_ids)))
    return {one.job_id: one for one in found if one.job_id in job_ids}


def _jobs(**choice: Any) -> list[Any]:
    from sky import jobs
    from sky.client import sdk

    found, *_ = sdk.get(jobs.queue_v2(refresh=False, all_users=True, fields=JOB_FIELDS, **choice))
    return list(found)


def _cluster(record: Any, state: str, jobs: list[Any]) -> dict[str, Any]:
    return {
        "id": record.cluster_hash,
        "name": record.name,
        "user": record.user_hash,
        "me": _me(),
        "endpoint": _endpoint(),
        "submitted_s": int(record.launched_at),
        "token": _token(record.last_creation_yaml),
        "restarts": 0,
        "state": state,
        "jobs": [
            {"id": job.job_id, "name": job.job_name, "user": job.user_hash, "state": job.status.value}
            for job in jobs
        ],
        "reason": None,
    }


def _job(found: Any) -> dict[str, Any]:
    """`submitted_s` is 0 until the controller has begun with it."""
    return {
        "id": str(found.job_id),
        "name": found.job_name,
        "user": found.user_hash,
        "me": _me(),
        "endpoint": _endpoint(),
        "submitted_s": int(found.submitted_at or 0),
        "token": _token(found.user_yaml),
        "restarts": found.recovery_count or 0,
        "state": found.status.value,
        "jobs": [],
        "reason": found.failure_reason,
    }


def _token(task: str | None) -> str | None:
    """In the variables of the task that was launched."""
    import yaml

    config = yaml.safe_load(task) if task else None
    token = (config.get("envs") or {}).get(TOKEN_VARIABLE) if isinstance(config, dict) else None
    return token if isinstance(token, str) else None


def _me() -> str:
    """Who we are to the server: where it asks who its users are, it knows better than this machine."""
    from sky.client import sdk
    from sky.utils import common_utils

    user = sdk.api_info().user
    return str(user.id if user is not None else common_utils.get_user_hash())


def _endpoint() -> str:
    """The server's address; a password in it is not ours to write down."""
    from sky.server import common

    parts = urlsplit(common.get_server_url())
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


OPERATIONS = {
    operation.__name__: operation
    for operation in (
        check_task,
        launch_cluster,
        launch_job,
        cluster,
        job,
        job_by_token,
        cancel_job,
        cancel_cluster_job,
        down,
        cluster_logs,
        job_logs,
    )
}
