"""Options of the gateway beside those of our HTTP server and of the servers that it starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated
from urllib.parse import urlsplit

from wf_formats.errors import RequestError
from wrinklefree_inference.options import Flag, HttpOptions, ListenOptions
from wrinklefree_inference.upstreams import bearer, server_of

DEFAULT_WORKERS = 2


class Policy(StrEnum):
    """Which worker the router gives a request to."""

    CACHE_AWARE = "cache_aware"
    LEAST_LOAD = "least_load"
    ROUND_ROBIN = "round_robin"


@dataclass(frozen=True)
class RemoteOptions:
    """Our HTTP server, where the gateway starts no worker itself."""

    listen: ListenOptions = field(default_factory=ListenOptions)
    http: HttpOptions = field(default_factory=HttpOptions)


@dataclass(frozen=True)
class GatewayOptions:
    """What stands behind the gateway and how it chooses."""

    workers: Annotated[
        int | None,
        Flag(
            "--workers",
            f"Servers of --model to start; {DEFAULT_WORKERS} if not given.",
            minimum=1,
            maximum=256,
        ),
    ] = None
    worker_urls: Annotated[
        list[str] | None,
        Flag("--worker-url", "A server that runs already, as http://HOST:PORT; several may be given."),
    ] = None
    worker_api_key: Annotated[
        str | None,
        Flag(
            "--worker-api-key",
            "Key that the servers of --worker-url ask for; better $WF_WORKER_API_KEY.",
            envvar="WF_WORKER_API_KEY",
        ),
    ] = None
    policy: Annotated[
        Policy,
        Flag(
            "--policy",
            "cache_aware: the worker that knows the beginning of the prompt, unless it has more to do than "
            "the others; least_load; round_robin.",
        ),
    ] = Policy.CACHE_AWARE
    upstream_timeout_s: Annotated[
        float,
        Flag("--upstream-timeout", "Seconds until a worker sends something, or more.", minimum=0.1),
    ] = 600.0

    def __post_init__(self) -> None:
        urls = self.urls
        for url in urls:
            parts = urlsplit(url)
            if parts.username or parts.password:
                place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
                raise RequestError(f"--worker-url {place} holds a key: give it by $WF_WORKER_API_KEY instead")
            if parts.path or parts.query or parts.fragment:
                raise RequestError(f"--worker-url {url!r} must end after host and port")
            if urls.count(url) > 1:
                raise RequestError(f"--worker-url {url} is given twice: each server once")
        if self.worker_api_key is not None:
            bearer(self.worker_api_key)

    @property
    def urls(self) -> list[str]:
        """The servers that run already, without `/v1`."""
        return [server_of(url) for url in self.worker_urls or ()]
