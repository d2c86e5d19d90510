"""What is checked of every request before a route sees it: host, key, draining, size and type of the body.

`/health` is open to everybody. Everything else, `/metrics` too, needs a key if the server has any. Without
keys the server listens on loopback alone, and then the `Host` header must be a loopback name: otherwise any
web page could reach it through a name of its own that resolves to 127.0.0.1. For the same reason a body
must be `application/json`: a browser sends that to another origin only after asking. Where a path does not
have the method there is nothing to send to: that is told first.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from wrinklefree_inference.addresses import is_loopback, network_of
from wrinklefree_inference.http.auth import ApiKeys
from wrinklefree_inference.http.body import read_body, replay
from wrinklefree_inference.http.errors import ApiError
from wrinklefree_inference.http.lifecycle import Lifecycle
from wrinklefree_inference.http.record import record_of
from wrinklefree_inference.options import HttpOptions


class Guard:
    """ASGI middleware; raises `ApiError`, which the boundary turns into a response."""

    def __init__(self, app: Starlette, keys: ApiKeys, http: HttpOptions, lifecycle: Lifecycle) -> None:
        self._app, self._keys, self._http, self._lifecycle = app, keys, http, lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/health":
            await self._app(scope, receive, send)
            return
        self._check_host(scope)
        record = record_of(scope)
        record.key_index = self._keys.index_of(_headers(scope, b"authorization"))
        record.client = _client(scope, record.key_index)
        if not scope["path"].startswith(("/v1/", "/api/")):
            await self._app(scope, receive, send)
            return
        num_bytes = 0
        async with self._lifecycle.answering(record.client):
            if scope["method"] == "POST":
                if self._answers(scope):
                    _check_type(scope)
                body = await read_body(scope, receive, self._http)
                receive = replay(body, receive)
                num_bytes = len(body)
                del body
            await self._app(scope, receive, send)
        self._lifecycle.large_bodies.note(num_bytes)

    def _answers(self, scope: Scope) -> bool:
        """Whether the path is there and has the method; else the application says what is not."""
        return any(route.matches(scope)[0] is Match.FULL for route in self._app.routes)

    def _check_host(self, scope: Scope) -> None:
        if self._keys:
            return
        hosts = _headers(scope, b"host")
        name = hosts[0].decode("latin-1") if len(hosts) == 1 else ""
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        if not is_loopback(name):
            reason = "a server without keys answers to localhost alone: give it an API key"
            raise ApiError(403, reason, code="host_not_allowed")


def _client(scope: Scope, key_index: int | None) -> str:
    """Who takes turns with others: a key, wherever it is used; without keys an address."""
    if key_index is not None:
        return f"key {key_index}"
    return network_of(scope["client"][0]) if scope.get("client") else ""


def _check_type(scope: Scope) -> None:
    kinds = _headers(scope, b"content-type")
    if len(kinds) != 1 or kinds[0].partition(b";")[0].strip().lower() != b"application/json":
        raise ApiError(415, "send the body as Content-Type: application/json", code="unsupported_media_type")


def _headers(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]
