"""One connection: uvicorn's HTTP/1.1 on h11, with an end to everything that a client can draw out.

uvicorn itself ends idle connections after an answer, but no others. `DrainingServer` calls `check` of every
connection several times a second, which compares how long it has been in its state with the options:

state      it is                                                         ends after
SILENT     open without a request                                      header_timeout_s; keep_alive_timeout_s
                                                                       after an answer (uvicorn's own)
HEADERS    sending a request's head                                    header_timeout_s, with 408
ANSWERED   sending on though its answer is complete                    2 s
ANSWERING  getting an answer; its body has a time-out in `body.py`     write_timeout_s without taking a byte
CLOSING    closed by us, with bytes that it has not taken              the same

A client may close its sending half after the request and still gets the answer. One that has left looks the
same at first, so it is sent something without meaning, once (100 Continue, or a comment in an event stream);
if it has left, its machine answers with a reset, which the socket then tells.
"""

from __future__ import annotations

import asyncio
import json
import math
import socket
import sys
import time
from enum import StrEnum
from typing import Any, cast

import h11
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from wrinklefree_inference.addresses import network_of
from wrinklefree_inference.http.connections import ConnectionTable
from wrinklefree_inference.http.errors import ApiError
from wrinklefree_inference.http.record import record_of
from wrinklefree_inference.options import HttpOptions

HEAD_BYTES = 16 << 10
"""Longest request head, about: h11 refuses more than this that does not yet make one."""
_ANSWERED_S = 2.0
_LOOK_S = 0.05
_EVENT_END = b"\n\n"
_COMMENT = b": are you there\n\n"


class State(StrEnum):
    """Of a connection; see the module."""

    SILENT = "silent"
    HEADERS = "headers"
    ANSWERING = "answering"
    ANSWERED = "answered"
    CLOSING = "closing"


class GuardedProtocol(H11Protocol):
    """One connection; its `server_state` is a `ConnectionTable`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.timeout_keep_alive = self._options.keep_alive_timeout_s  # type: ignore[assignment] # any number
        self.network = ""
        self.since_s = time.monotonic()
        self._state: tuple[State, object] = (State.SILENT, None)
        self._has_partial_head = False
        self._unsent_bytes = 0
        self._stalled_since_s = self.since_s
        self._is_half_closed = False
        self._app = self.app
        self.app = self._watched
        self._stream_end: bytes | None = None

    @property
    def _table(self) -> ConnectionTable:
        return cast("ConnectionTable", self.server_state)

    @property
    def _options(self) -> HttpOptions:
        return self._table.options

    @property
    def has_asked(self) -> bool:
        """It has carried a request."""
        return self.cycle is not None

    @property
    def is_idle(self) -> bool:
        """No request is being answered, or its body read."""
        return self._now_in() in (State.SILENT, State.HEADERS, State.ANSWERED)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refused with 503 if there are too many."""
        super().connection_made(transport)
        self.network = network_of(self.client[0] if self.client else "")
        if not self._table.admit(self):
            self._refuse(ApiError(503, "there are too many connections", code="too_many_connections"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Makes room for another."""
        self._table.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """In pieces, so that h11's limit of a head holds however much comes at once."""
        for start in range(0, len(data), HEAD_BYTES):
            if self.transport.is_closing():
                return
            super().data_received(data[start : start + HEAD_BYTES])
        self._has_partial_head = self.conn.their_state is h11.IDLE and self.conn.trailing_data[0] != b""

    def handle_events(self) -> None:
        """Without the empty lines before a request (RFC 9112, 2.2), which h11 takes for a request line."""
        if self.conn.their_state is h11.IDLE:
            unread = self.conn.trailing_data[0]
            if num_blank := len(unread) - len(unread.lstrip(b"\r\n")):
                self.conn._receive_buffer.maybe_extract_at_most(num_blank)
        super().handle_events()

    def on_response_complete(self) -> None:
        """A client that sends no more is done with its last answer."""
        self._stream_end, self._has_partial_head = None, False
        super().on_response_complete()
        if self._is_half_closed and self._now_in() is not State.ANSWERING:
            self.transport.close()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether the connection stays open for an answer; half a request is answered at once."""
        state = self._now_in()
        if state is State.HEADERS or (state is State.ANSWERING and self.conn.their_state is h11.SEND_BODY):
            self._refuse(ApiError(400, "the request ends before it is complete", code="invalid_http"))
        if self._now_in() is not State.ANSWERING or self.conn.their_state not in (h11.DONE, h11.MUST_CLOSE):
            return False
        if not self._is_half_closed:
            self._is_half_closed = True
            self._probe()
            self._look_for_reset()
        return True

    def give_way(self) -> None:
        """Close at once."""
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """For what is no HTTP; uvicorn calls it while it handles h11's error."""
        error = sys.exc_info()[1]
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        self._refuse(ApiError(status, f"this is not a valid HTTP request: {error}", code="invalid_http"))

    def check(self, now_s: float) -> None:
        """End what takes too long; see the module."""
        state = (self._now_in(), self.cycle)
        if state != self._state:
            self._state, self.since_s = state, now_s
        self._check_writing(now_s)
        if now_s - self.since_s <= self._limit_s(state[0]):
            return
        if state[0] is State.HEADERS:
            reason = f"the request's head took more than {self._options.header_timeout_s:g} s to arrive"
            self._refuse(ApiError(408, reason, code="timeout"))
        else:
            self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """None: whoever asks for another protocol gets this one."""

    def _limit_s(self, state: State) -> float:
        match state:
            case State.HEADERS:
                return self._options.header_timeout_s
            case State.SILENT:
                before_first = self._options.header_timeout_s
                # after an answer uvicorn's own ends it, unless empty lines have come
                return (
                    before_first if self.cycle is None else before_first + self._options.keep_alive_timeout_s
                )
            case State.ANSWERED:
                return _ANSWERED_S
            case State.ANSWERING | State.CLOSING:
                return math.inf

    def _now_in(self) -> State:
        if self.transport.is_closing():
            return State.CLOSING
        if self.cycle is not None and not self.cycle.response_complete:
            return State.ANSWERING
        if self.conn.their_state is not h11.IDLE:
            return State.ANSWERED
        return State.HEADERS if self._has_partial_head else State.SILENT

    def _check_writing(self, now_s: float) -> None:
        """Abort on a client that takes nothing of what there is to send."""
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0 or unsent < self._unsent_bytes:
            self._stalled_since_s = now_s
        self._unsent_bytes = unsent
        if now_s - self._stalled_since_s > self._options.write_timeout_s:
            self.transport.abort()

    def _refuse(self, error: ApiError) -> None:
        """Answer, if the answer has not begun, and close."""
        if self.transport.is_closing():
            return
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        body = json.dumps(error.body).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        response = h11.Response(
            status_code=error.status,
            headers=[*headers, ("Connection", "close"), *error.headers.items()],
            reason=STATUS_PHRASES[error.status],
        )
        for event in (response, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    async def _watched(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application; what it sends is noted where a comment may be put into its stream."""

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                kinds = [value for name, value in message.get("headers", []) if name == b"content-type"]
                is_stream = any(kind.startswith(b"text/event-stream") for kind in kinds)
                self._stream_end = _EVENT_END if is_stream else None
            await send(message)
            if self._stream_end is not None and message.get("body"):
                self._stream_end = message["body"][-len(_EVENT_END) :]

        app = self._app if scope["http_version"] in ("1.0", "1.1") else _OTHER_VERSION.response()
        try:
            await app(scope, receive, noting)
        except (ApiError, asyncio.CancelledError):  # the server ends and waits for this answer no longer
            self.cycle.disconnected = True
            self.transport.abort()
            return
        cycle = self.cycle
        if cycle.response_started and not (cycle.response_complete or cycle.disconnected):
            # Whoever ended it here has told the log why; uvicorn would add an error that knows nothing of it.
            cycle.disconnected = record_of(scope).outcome == "error"
            self.transport.close()

    def _probe(self) -> None:
        """Send something without meaning, if this is the moment for it."""
        if self.conn.our_state is h11.SEND_RESPONSE and self.conn.their_http_version != b"1.0":
            self.transport.write(self.conn.send(_CONTINUE) or b"")
        elif self.conn.our_state is h11.SEND_BODY and self._stream_end == _EVENT_END:
            self.transport.write(self.conn.send(h11.Data(data=_COMMENT)) or b"")

    def _look_for_reset(self) -> None:
        """Again and again until the connection is closed: asyncio does not read where no more is sent."""
        if self.transport.is_closing():
            return
        end: socket.socket = self.transport.get_extra_info("socket")
        if end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
        else:
            self.loop.call_later(_LOOK_S, self._look_for_reset)


_OTHER_VERSION = ApiError(400, "speak HTTP/1.1", code="invalid_http", headers={"Connection": "close"})
_CONTINUE = h11.InformationalResponse(status_code=100, headers=[], reason="Continue")
