"""Which web pages may call (CORS), with refusals in the form of all others.

Starlette answers a preflight itself, before anything else sees it, and a refused one in plain text.
"""

from __future__ import annotations

from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from wrinklefree_inference.http.errors import ApiError


class Cors(CORSMiddleware):
    """ASGI middleware: Starlette's, whose refusals are JSON."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """Whether a page may send what it is about to send."""
        response = super().preflight_response(request_headers)
        return response if response.status_code == HTTPStatus.OK else _Refusal(response)


class _Refusal(Response):
    """A refused preflight: its status, headers and words, written as errors of its path are."""

    def __init__(self, refused: Response) -> None:
        reason = bytes(refused.body).decode().removeprefix("Disallowed CORS ")
        super().__init__(status_code=refused.status_code)
        kept = {name: value for name, value in refused.headers.items() if not name.startswith("content-")}
        message = f"a web page may not send this (CORS): {reason} not allowed; see --allow-origin"
        self._error = ApiError(refused.status_code, message, code="cors_not_allowed", headers=kept)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        await self._error.response(scope["path"])(scope, receive, send)
