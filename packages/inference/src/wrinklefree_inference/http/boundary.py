"""The outermost layers: request id, one log line and the metrics of each request; last resort for errors."""

from __future__ import annotations

import logging
import traceback
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wrinklefree_inference.http.errors import ApiError, ClientLeft, internal_error
from wrinklefree_inference.http.metrics import Metrics
from wrinklefree_inference.http.record import CLIENT_LEFT, PROBES, RequestRecord, begin, record_of

_log = logging.getLogger(__name__)


class Boundary:
    """ASGI middleware: the record of each request. HEAD is answered as GET; uvicorn leaves out the body."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = begin(scope)
        send = _noting(send, record)
        self._metrics.in_progress.inc()
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        try:
            await self._app(scope, receive, send)
        finally:
            self._metrics.in_progress.dec()
            record.status = record.status or CLIENT_LEFT
            if record.status == CLIENT_LEFT:
                record.outcome = "client_left"
            elif record.status >= HTTPStatus.BAD_REQUEST:
                record.outcome = "error"
            self._metrics.observe(record)
            level = logging.DEBUG if record.endpoint in PROBES else logging.INFO
            _log.log(level, "request", extra={"fields": record.log_fields()})


class Refusals:
    """ASGI middleware: what is raised becomes a response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = record_of(scope)
        try:
            await self._app(scope, receive, send)
        except ClientLeft:
            record.outcome = "client_left"
        except ApiError as error:
            if record.status:  # the server ends in the middle of an answer: its connection is broken off
                record.outcome = "error"
                raise
            await error.response(scope["path"])(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets a 500 and the server goes on
            log_unexpected(error, record)
            if not record.status:
                await internal_error().response(scope["path"])(scope, receive, send)


def log_unexpected(error: BaseException, record: RequestRecord) -> None:
    """Log where a defect is, without the error's message: it may quote a prompt."""
    record.outcome = "error"
    places = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)]
    fields = {"request_id": record.request_id, "error": type(error).__name__, "traceback": places}
    _log.error("unexpected error", extra={"fields": fields})


def _noting(send: Send, record: RequestRecord) -> Send:
    """A `send` that notes the status and adds the request's id."""

    async def noting(message: Message) -> None:
        if message["type"] == "http.response.start":
            record.status = message["status"]
            message["headers"] = [
                *message.get("headers", []),
                (b"x-request-id", record.request_id.encode()),
                (b"x-content-type-options", b"nosniff"),
            ]
        await send(message)

    return noting
