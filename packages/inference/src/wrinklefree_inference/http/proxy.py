"""The same door in front of another OpenAI-compatible server: keys, limits, logs, metrics and shutdown are
ours, the answers are its own.

Requests and answers pass unchanged, streams piece by piece. A client that leaves closes the connection to the
server behind. Tokens are not counted here: that takes the model's tokenizer.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from http import HTTPStatus
from urllib.parse import quote

import httpx
from fastapi import Request
from starlette.responses import JSONResponse, Response

from wf_formats.errors import RequestError
from wrinklefree_inference.http.app import NO_KEYS, HttpApp, new_app, protect
from wrinklefree_inference.http.auth import ApiKeys
from wrinklefree_inference.http.errors import ApiError
from wrinklefree_inference.http.lifecycle import Lifecycle
from wrinklefree_inference.http.metrics import Metrics
from wrinklefree_inference.http.sse import EventStream, frame, unless_client_leaves
from wrinklefree_inference.options import HttpOptions

_PASSED_ON = ("content-type", "accept")
_PASSED_BACK = ("content-type", "retry-after", "cache-control")
_STREAM = "text/event-stream"
_STATUSES = range(200, 600)


class Upstream:
    """The server behind.

    Args:
        url: With or without `/v1`.
        api_key: Its key; the client's own is never passed on.

    Raises:
        RequestError: That is no URL.
    """

    def __init__(self, url: str, api_key: str | None = None, timeout_s: float = 600.0) -> None:
        try:
            base = httpx.URL(url.rstrip("/").removesuffix("/v1"))
        except httpx.InvalidURL as error:
            raise RequestError(f"the server's URL {url!r} is none: {error}") from error
        if base.scheme not in ("http", "https") or not base.host:
            raise RequestError(f"the server's URL must begin with http:// or https://, got {url!r}")
        timeout = httpx.Timeout(timeout_s, connect=10.0)
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.url = str(base)
        self._client = httpx.AsyncClient(base_url=base, headers=headers, timeout=timeout, trust_env=False)

    async def send(self, request: Request, body: bytes) -> httpx.Response:
        """Begin an exchange; the response's body has not been read.

        Raises:
            ApiError: 404 for a path that leads elsewhere, 502 if no server answers, 504 if it takes too long.
        """
        headers = {name: value for name in _PASSED_ON if (value := request.headers.get(name))}
        path = _outgoing_path(request.url.path)
        outgoing = self._client.build_request(request.method, path, content=body or None, headers=headers)
        try:
            return await self._client.send(outgoing, stream=True)
        except httpx.TimeoutException as error:
            raise ApiError(
                504, "the server behind did not answer in time", code="upstream_timeout"
            ) from error
        except httpx.RequestError as error:
            raise ApiError(502, "the server behind cannot be reached", code="upstream_unreachable") from error

    async def is_healthy(self) -> bool:
        """Whether it lists its models."""
        try:
            return (await self._client.get("/v1/models", timeout=5.0)).status_code == HTTPStatus.OK
        except httpx.RequestError:
            return False

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def create_proxy(
    upstream: Upstream,
    http: HttpOptions = HttpOptions(),  # noqa: B008 - frozen
    keys: ApiKeys = NO_KEYS,
) -> HttpApp:
    """The application."""
    metrics, lifecycle = Metrics(), Lifecycle(http.max_inflight)
    app = new_app("WrinkleFree proxy")

    async def forward(request: Request) -> Response:
        return await _forward(upstream, request)

    for path in ("/v1/chat/completions", "/v1/completions"):
        app.add_api_route(path, forward, methods=["POST"])
    for path in ("/v1/models", "/v1/models/{model:path}"):
        app.add_api_route(path, forward, methods=["GET"])

    @app.get("/health")
    async def health() -> Response:
        state = "draining" if lifecycle.is_draining else "ok" if await upstream.is_healthy() else "failed"
        status = HTTPStatus.OK if state == "ok" else HTTPStatus.SERVICE_UNAVAILABLE
        return JSONResponse({"status": state}, status)

    @app.get("/metrics")
    async def page() -> Response:
        return metrics.response()

    return replace(protect(app, http, keys, lifecycle, metrics), other_descriptors=http.max_inflight)


def _outgoing_path(path: str) -> str:
    """A decoded path, encoded again. Raises: ApiError where it leads out of `/v1`, to what is not ours."""
    if {".", ".."} & set(path.split("/")):
        raise ApiError(404, "there is no such path", code="not_found")
    return quote(path, safe="/:@")


async def _forward(upstream: Upstream, request: Request) -> Response:
    body = await request.body()
    answer = await unless_client_leaves(request.receive, upstream.send(request, body))
    if answer.status_code not in _STATUSES:
        await answer.aclose()
        raise _broken_off()
    found = ((name, answer.headers.get(name)) for name in _PASSED_BACK)
    headers = {name: value for name, value in found if value and value.isascii()}
    if answer.headers.get("content-type", "").startswith(_STREAM):
        return EventStream(_pieces(answer), answer.aclose, answer.status_code)
    try:
        content = await unless_client_leaves(request.receive, answer.aread())
    except httpx.RequestError as error:
        raise _broken_off() from error
    finally:
        await answer.aclose()
    return Response(content, answer.status_code, headers)


async def _pieces(answer: httpx.Response) -> AsyncGenerator[Sequence[bytes], None]:
    try:
        async for piece in answer.aiter_bytes():
            yield [piece]
    except httpx.RequestError:
        yield [frame(_broken_off().body)]


def _broken_off() -> ApiError:
    return ApiError(502, "the server behind broke off its answer", code="upstream_broke_off")
