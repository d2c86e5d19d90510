"""What is known of one HTTP request: filled while it is answered, then logged and counted."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any, cast

from starlette.types import Scope

CLIENT_LEFT = 499  # nginx's number; never sent, only logged and counted

_SCOPE_KEY = "wrinklefree.record"
PROBES = frozenset({"/health", "/metrics", "/v1/loads"})
"""What monitors and routers ask every few seconds."""
_ENDPOINTS = PROBES.union(
    ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/models"),
    (f"/api/{name}" for name in ("chat", "generate", "embed", "show", "tags", "ps", "version")),
    ("/openapi.json", "/"),
)


@dataclass
class RequestRecord:
    """Facts of one request; no text of it, and no key.

    Attributes:
        endpoint: Path of the route, `other` for unknown paths (so that metrics stay bounded).
        status: HTTP status; 499 if the client left before it got one.
        outcome: `ok`, `error`, or `client_left`.
        key_index: Which of the server's keys was used, counted from 0.
        client: Fairness key for the engine.
        ignored: Names of fields that the server does not know (`unknown_fields.py`).
        started: `time.perf_counter()` when the request line was read.
        is_passed_on: Another server answers it, and counts its tokens.
        first_token_s: Time from there to the first token.
    """

    endpoint: str
    request_id: str = field(default_factory=lambda: f"req_{uuid.uuid4().hex}")
    started: float = field(default_factory=time.perf_counter)
    status: int = 0
    outcome: str = "ok"
    is_stream: bool = False
    key_index: int | None = None
    client: str = ""
    ignored: str = ""
    is_passed_on: bool = False
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    first_token_s: float | None = None

    @property
    def duration_s(self) -> float:
        """Time since the start."""
        return time.perf_counter() - self.started

    def log_fields(self) -> dict[str, Any]:
        """The fields of the log line."""
        first = self.first_token_s
        tokens = {
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "first_token_s": None if first is None else round(first, 4),
        }
        fields = {
            "request_id": self.request_id,
            "endpoint": self.endpoint,
            "status": self.status,
            "outcome": self.outcome,
            "stream": self.is_stream,
            "key": self.key_index,
            **({} if self.is_passed_on else tokens),
            "duration_s": round(self.duration_s, 4),
        }
        return fields | {"ignored": self.ignored} if self.ignored else fields


def begin(scope: Scope) -> RequestRecord:
    """Attach a new record to an ASGI scope."""
    record = RequestRecord(_endpoint(scope["path"]))
    scope[_SCOPE_KEY] = record
    return record


def record_of(scope: Scope) -> RequestRecord:
    """The record that `begin` attached."""
    return cast("RequestRecord", scope[_SCOPE_KEY])


def _endpoint(path: str) -> str:
    if path in _ENDPOINTS:
        return path
    return "/v1/models/{model}" if path.startswith("/v1/models/") else "other"
