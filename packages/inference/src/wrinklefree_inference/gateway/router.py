"""The router between the gateway and its workers: smg (Rust, Apache-2.0) as a child process.

It runs in an environment of its own (`wf_formats.isolated_python`): its 125 MB and its gRPC have no place
beside ours. `router_program.py` hands it its arguments, key included, by standard input. It listens on two
ports of loopback, one for metrics; /v1/models, /health and /readiness of the first need no key, and no more
can be had by them than that.

What it is told differently from its defaults, and why:

    --balance-abs-threshold 1, --balance-rel-threshold 1.0
                        a worker that knows the prefix is passed over as soon as it has more to do than the
                        others; with 64 a prompt that all requests begin with keeps a few workers idle
                        (`benchmarks/gateway.py`)
    --health-...        a worker that died, or came back, is known after 1 to 2 s, not after minutes
    --cb-...            so is one whose requests have failed: 2 s, not 60
    --sse-keepalive-secs 0, --request-timeout-secs
                        time-outs are ours (`http/upstream.py`), and count what the worker itself sends
    --history-backend none, --disable-tokenizer-autoload
                        it keeps no conversations, and loads nothing from a hub
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from wf_formats.errors import RequestError
from wf_formats.isolated_python import NO_UV, isolated_python
from wf_formats.printable import printable
from wrinklefree_inference.gateway.child import Child
from wrinklefree_inference.gateway.options import Policy
from wrinklefree_inference.gateway.supervised import FIRST_PAUSE_S, ChildFailedError, Supervised
from wrinklefree_inference.ports import Port
from wrinklefree_inference.upstreams import UNCOMPRESSED, bearer

REQUIREMENT = "smg>=1.13,<2"
_PROGRAM = Path(__file__).with_name("router_program.py")
_READY_S = 60.0
_LOOK_S = 0.1
_LONGEST_ANSWER_S = 7 * 24 * 3600
_SECRETS = ("WF_API_KEY", "WF_WORKER_API_KEY", "WF_UPSTREAM_API_KEY")
_log = logging.getLogger(__name__)


class Router(Supervised):
    """smg in front of servers by URL.

    `start` gets it as far as it gets without workers, `route` makes it route.

    Args:
        policy: How it chooses.
        key: That it asks for, and that it shows the workers.
        body_bytes: Longest request.
    """

    balance = (1, 1.0)
    """A worker is passed over if it has so many requests more than the mean, and so many times as many."""

    def __init__(
        self,
        policy: Policy,
        key: str,
        body_bytes: int,
        first_pause_s: float = FIRST_PAUSE_S,
        command: Sequence[str] | None = None,
    ) -> None:
        super().__init__("the router", self._log_line, first_pause_s)
        self._port, self._metrics_port = Port(), Port()
        self.url, self.metrics_url = self._port.url, f"{self._metrics_port.url}/metrics"
        self._policy, self._key, self._body_bytes = policy, key, body_bytes
        self._command = command or isolated_python(REQUIREMENT, str(_PROGRAM))
        self._urls: list[str] = []
        self._has_begun = False
        self._client = httpx.AsyncClient(
            base_url=self.url, headers=UNCOMPRESSED | bearer(key), timeout=5.0, trust_env=False
        )

    def spawn(self) -> Child:
        """Start the program, which waits for its arguments.

        Raises:
            RequestError: There is no uv.
        """
        self._has_begun = False
        kept = {name: value for name, value in os.environ.items() if name not in _SECRETS}
        direct = ",".join(filter(None, [kept.get("no_proxy") or kept.get("NO_PROXY"), "127.0.0.1"]))
        try:
            return Child(
                self._command, self.tell, kept | {"no_proxy": direct, "NO_PROXY": direct}, has_input=True
            )
        except FileNotFoundError as error:
            raise RequestError(NO_UV) from error

    async def until_ready(self, child: Child) -> None:
        """smg is there; where workers are known it routes to them."""
        self._has_begun = await child.first_line() == "begun"
        if not self._has_begun:
            await child.wait()
        elif self._urls:
            await self._begin(child)

    async def route(self, urls: Sequence[str]) -> None:
        """Begin to route to these servers.

        Raises:
            ChildFailedError: It ended, or does not reach one of them.
        """
        self._urls = list(urls)
        assert self._child is not None
        begun, ended = (
            asyncio.ensure_future(self._begin(self._child)),
            asyncio.ensure_future(self._child.wait()),
        )
        try:
            await asyncio.wait([begun, ended], return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                raise self._failure(ended.result())
            begun.result()
        finally:
            begun.cancel()
            ended.cancel()

    async def workers(self) -> dict[str, bool]:
        """Which servers it routes to, by URL; none while it does not answer."""
        try:
            answer = await self._client.get("/workers")
            listed = answer.raise_for_status().json()["workers"]
            return {worker["url"]: bool(worker["is_healthy"]) for worker in listed}
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return {}

    async def stop(self, grace_s: float) -> None:
        """End it, and give its ports back."""
        await super().stop(grace_s)
        await self._client.aclose()
        self._port.close()
        self._metrics_port.close()

    def arguments(self) -> list[str]:
        """Of smg."""
        chosen: dict[str, Any] = {
            "--host": "127.0.0.1",
            "--port": self._port.number,
            "--prometheus-host": "127.0.0.1",
            "--prometheus-port": self._metrics_port.number,
            "--api-key": self._key,
            "--policy": self._policy.value,
            "--balance-abs-threshold": self.balance[0],
            "--balance-rel-threshold": self.balance[1],
            "--health-check-interval-secs": 1,
            "--health-failure-threshold": 2,
            "--health-success-threshold": 1,
            "--worker-startup-check-interval": 1,
            "--cb-timeout-duration-secs": 2,
            "--cb-success-threshold": 1,
            "--load-monitor-interval": 2,
            "--request-timeout-secs": _LONGEST_ANSWER_S,
            "--sse-keepalive-secs": 0,
            "--max-payload-size": 2 * self._body_bytes,  # it writes the JSON anew
            "--max-buffered-request-bytes": 2 * self._body_bytes,
            "--history-backend": "none",
            "--log-level": "error",
        }
        given = [text for name, value in chosen.items() for text in (name, str(value))]
        return ["--worker-urls", *self._urls, *given, "--disable-tokenizer-autoload", "--log-json"]

    async def _begin(self, child: Child) -> None:
        child.write(json.dumps(self.arguments()))
        found: dict[str, bool] = {}
        try:
            async with asyncio.timeout(_READY_S):
                while not all(found.get(url) for url in self._urls):
                    await asyncio.sleep(_LOOK_S)
                    found = await self.workers()
        except TimeoutError as error:
            missing = ", ".join(url for url in self._urls if not found.get(url))
            raise ChildFailedError(f"the router does not reach {missing} after {_READY_S:g} s") from error

    def _failure(self, code: int) -> ChildFailedError:
        if self._has_begun:
            return super()._failure(code)
        words = printable(" ".join(" ".join(self._lines).split()).removeprefix("error: "), most_chars=600)
        return ChildFailedError(f"uv cannot give {REQUIREMENT}: {words or 'it wrote nothing'}", 2)

    def _log_line(self, line: str) -> None:
        """Its lines are JSON; what else is printed (a traceback) is kept for its last words."""
        try:
            said = json.loads(line)
            message, level = said["fields"]["message"], said["level"]
        except (ValueError, KeyError, TypeError):
            return
        _log.warning("router: %s", printable(str(message)), extra={"fields": {"router_level": level}})
