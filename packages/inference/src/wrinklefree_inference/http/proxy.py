"""The same door in front of another OpenAI-compatible server: keys, limits, logs, metrics and shutdown are
ours, the answers are its own (`upstream.py`: what is none).

Requests and answers pass unchanged, piece by piece; no more than 1 MiB of an answer is held. A client that
leaves closes the connection to the server behind. Tokens are not counted here: that takes the model's
tokenizer.

An answer that is cut off never looks whole: one of up to 1 MiB becomes a 502, a stream of events gets an
error event, and where there is no place for one (in the middle of a line, or of a longer body) the connection
is closed before the end that HTTP/1.1 marks. A stream is whole if `[DONE]`, a reason of the end or the last
event of a response has come.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from wrinklefree_inference.http.app import NO_KEYS, HttpApp, protect
from wrinklefree_inference.http.auth import ApiKeys
from wrinklefree_inference.http.errors import ApiError
from wrinklefree_inference.http.handlers import Operation, handler, operation
from wrinklefree_inference.http.lifecycle import Lifecycle
from wrinklefree_inference.http.metrics import Metrics
from wrinklefree_inference.http.record import record_of
from wrinklefree_inference.http.routes import new_app
from wrinklefree_inference.http.sse import EventStream, frame, unless_client_leaves
from wrinklefree_inference.http.upstream import Answer, Upstream, broken_off
from wrinklefree_inference.options import HttpOptions

_HELD_BYTES = 1 << 20
# Within JSON none can stand in a text: a line break and a quotation mark are escaped there.
_END = re.compile(
    rb'[\r\n]data: ?\[DONE\]|"finish_reason"\s*:\s*"'
    rb"|[\r\n]event: ?response\.(?:completed|incomplete|failed)[\r\n]"
)
_END_BYTES = 64
_log = logging.getLogger(__name__)


_POSTED = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
_GOT = ("/v1/models", "/v1/models/{model:path}")


def create_proxy(
    upstream: Upstream,
    http: HttpOptions = HttpOptions(),  # noqa: B008 - frozen
    keys: ApiKeys = NO_KEYS,
    own_operations: Callable[[Lifecycle, Metrics], Sequence[Operation]] = lambda *_: (),
) -> HttpApp:
    """The application; what `own_operations` makes goes before what is passed on."""
    metrics, lifecycle = Metrics(), Lifecycle(http.max_inflight)

    @handler()
    async def forward(request: Request) -> Response:
        return await _forward(upstream, request)

    @handler()
    async def health(request: Request) -> Response:
        state = "draining" if lifecycle.is_draining else "ok" if await upstream.is_healthy() else "failed"
        status = HTTPStatus.OK if state == "ok" else HTTPStatus.SERVICE_UNAVAILABLE
        return JSONResponse({"status": state}, status)

    @handler()
    async def page(request: Request) -> Response:
        return metrics.response()

    operations = [
        *own_operations(lifecycle, metrics),
        *(operation("POST", path, forward) for path in _POSTED),
        *(operation("GET", path, forward) for path in _GOT),
        operation("GET", "/health", health),
        operation("GET", "/metrics", page),
    ]
    app = new_app("WrinkleFree proxy", operations)
    return replace(protect(app, http, keys, lifecycle, metrics), other_descriptors=http.max_inflight)


class PassedOn(EventStream):
    """A body in pieces that ends without its end where its source does: the client's HTTP tells it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; see the class."""
        try:
            await super().__call__(scope, receive, send)
        except ApiError as error:
            record = record_of(scope)
            record.outcome = "error"
            fields = {"request_id": record.request_id, "code": error.code}
            _log.warning("the answer ends before its end: %s", error.message, extra={"fields": fields})


async def _forward(upstream: Upstream, request: Request) -> Response:
    record_of(request.scope).is_passed_on = True
    body = await request.body()
    answer = await unless_client_leaves(request.receive, upstream.send(request, body))
    pieces = answer.pieces()
    if answer.is_stream:
        return PassedOn(_with_an_end(pieces), answer.aclose)
    try:
        begun, is_whole = await unless_client_leaves(request.receive, _beginning(pieces))
    except BaseException:
        await answer.aclose()
        raise
    if not is_whole:
        return PassedOn(_continued(begun, pieces), answer.aclose, answer.status, _named(answer))
    await answer.aclose()
    return Response(begun, answer.status, answer.headers)


def _named(answer: Answer) -> dict[str, str]:
    return {"content-type": "application/octet-stream"} | answer.headers


async def _beginning(pieces: AsyncGenerator[bytes, None]) -> tuple[bytes, bool]:
    """A body up to the length that is held, and whether that is all of it."""
    held = bytearray()
    async for piece in pieces:
        held += piece
        if len(held) > _HELD_BYTES:
            return bytes(held), False
    return bytes(held), True


async def _continued(
    begun: bytes, pieces: AsyncGenerator[bytes, None]
) -> AsyncGenerator[Sequence[bytes], None]:
    yield [begun]
    async for piece in pieces:
        yield [piece]


async def _with_an_end(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[Sequence[bytes], None]:
    """A stream of events, and an error event if it stops before its end.

    Raises:
        ApiError: It stops in the middle of a line: an event after it would be part of it.
    """
    last, is_whole = b"\n", False
    try:
        async for piece in pieces:
            last += piece
            is_whole = is_whole or _END.search(last) is not None
            last = last[-_END_BYTES:]
            yield [piece]
        if not is_whole:
            raise broken_off()
    except ApiError as error:
        if not last.endswith((b"\n", b"\r")):
            raise
        yield [b"\n" + frame(error.body)]
