"""Errors in the form of OpenAI's API: `{"error": {message, type, param, code}}`, for every status."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.native.request import AnswerFailed, EngineBusy, RequestTooLong
from wrinklefree_inference.sampling_bounds import API_BOUNDS

INVALID_REQUEST = "invalid_request_error"
_MAX_MESSAGE_CHARS = 500
_PROMPTS = "a prompt is a text, a list of texts, a list of token ids (integers) or a list of such lists"
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ErrorBody(BaseModel):
    """What went wrong; `param` names the field of the request, if one is to blame."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """Body of every response whose status is 400 or more."""

    error: ErrorBody


def refusals(statuses: Iterable[int], form: type[BaseModel] = ErrorResponse) -> dict[int, dict[str, Any]]:
    """What a route says of its errors in the OpenAPI page."""
    schema = {"$ref": f"#/components/schemas/{form.__name__}"}
    return {status: {"content": {"application/json": {"schema": schema}}} for status in statuses}


class ApiError(Exception):
    """An answer other than success.

    Args:
        status: HTTP status.
        message: For the client's user: says what was wrong and what to do.
        param: Field of the request that is to blame.
        code: For programs.
        headers: Further response headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object."""
        kind = _TYPES.get(self.status, INVALID_REQUEST if self.status < 500 else "server_error")
        message = self.message
        if len(message) > _MAX_MESSAGE_CHARS:
            message = f"{message[: _MAX_MESSAGE_CHARS - 1]}…"
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}

    def body_for(self, path: str) -> dict[str, Any]:
        """The same for a path; Ollama's clients take `error` for a text."""
        return {"error": self.body["error"]["message"]} if path.startswith("/api/") else self.body

    def response(self, path: str = "") -> Response:
        """The HTTP response; what cannot be UTF-8 (half a surrogate pair in a field's name) becomes `?`."""
        content = json.dumps(self.body_for(path), ensure_ascii=False).encode("utf-8", "replace")
        return Response(content, self.status, self.headers, "application/json")


class InvalidBody(Exception):  # noqa: N818 - the client's, not ours
    """A body whose values are not what its endpoint wants; `errors` are pydantic's."""

    def __init__(self, errors: Sequence[Any]) -> None:
        super().__init__(errors)
        self.errors = errors


class ClientLeft(Exception):  # noqa: N818 - not a fault
    """The connection closed before there was an answer."""


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A 400."""
    return ApiError(HTTPStatus.BAD_REQUEST, message, param=param, code=code)


def api_error(error: Exception) -> ApiError:
    """What a client is told of an error of the engine or the framework."""
    match error:
        case ApiError():
            return error
        case EngineBusy():
            seconds = str(max(1, math.ceil(error.retry_after_s)))
            return ApiError(429, str(error), code="queue_full", headers={"Retry-After": seconds})
        case RequestTooLong():
            return invalid(str(error), code="context_length_exceeded")
        case AnswerFailed():
            return ApiError(500, f"this answer ended early: {error}", code="answer_failed")
        case EngineError():
            return ApiError(503, f"the engine cannot answer: {error}", code="engine_unavailable")
        case InvalidBody():
            return _of_validation(error.errors)
        case HTTPException():
            return _of_http(error)
        case _:
            return internal_error()


def internal_error() -> ApiError:
    """A 500, which tells nothing of the inside."""
    return ApiError(500, "internal error; the server's log has the request id", code="internal_error")


class _NoResponse(Response):
    """For nobody."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send nothing."""


async def _answer(request: Request, error: Exception) -> Response:
    return api_error(error).response(request.scope["path"])


async def _no_response(request: Request, error: Exception) -> Response:
    return _NoResponse()


HANDLERS: Mapping[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
    **dict.fromkeys((ApiError, EngineBusy, RequestTooLong, EngineError, InvalidBody, HTTPException), _answer),
    ClientLeft: _no_response,
    Exception: _answer,  # answered here, then raised on to the boundary, which logs it
}
"""How all expected errors are answered, by their types."""


def _of_http(error: HTTPException) -> ApiError:
    messages = {
        404: ("there is no such path", "not_found"),
        405: ("this path does not have that method", "method_not_allowed"),
        400: ("the body is not a JSON object", "invalid_json"),
    }
    message, code = messages.get(error.status_code, (str(error.detail), None))
    return ApiError(error.status_code, message, code=code, headers=error.headers)


def _of_validation(errors: Sequence[Any]) -> ApiError:
    """The first error alone; of a union's branches, which pydantic all reports, the one that fits best."""
    first = max((e for e in errors if e["loc"][:1] == errors[0]["loc"][:1]), key=_fit)
    context = first.get("ctx") or {}
    param = _param([*first["loc"], *([context["field"]] if "field" in context else [])])
    message = _message(first, param)
    return invalid(f"{param}: {message}" if param else message, param, context.get("code"))


def _fit(error: Any) -> tuple[bool, int, list[int]]:
    """Whether the branch is of the value's type (five strings are a list, no bad string); how far it got."""
    indices = [part for part in error["loc"] if isinstance(part, int)]
    return not error["type"].endswith("_type"), len(error["loc"]), indices


def _message(error: Any, param: str | None) -> str:
    """Pydantic's words; with range and value of numbers, with bound and length of lists and texts."""
    context, kind = error.get("ctx") or {}, error["type"]
    if kind.startswith(("greater_than", "less_than")):
        words = f"must be {API_BOUNDS[param]}" if param in API_BOUNDS else error["msg"]
        return f"{words}, got {str(error['input'])[:40]}"
    if kind in ("too_long", "too_short"):
        is_long = kind == "too_long"
        bound = f"at most {context['max_length']}" if is_long else f"at least {context['min_length']}"
        unit = "character(s)" if isinstance(error["input"], str) else "item(s)"
        return f"must have {bound} {unit}, got {len(error['input'])}"
    if param is not None and param.partition("[")[0] == "prompt" and kind.endswith("_type"):
        return f"{_PROMPTS}, but this is {_shown(error['input'])}"
    message: str = error["msg"]
    if kind == "literal_error":
        return f"{message}, got {_shown(error['input'])}"
    return message.removeprefix("Value error, ")


def _shown(value: Any) -> str:
    """A value of JSON, shortened; of lists and objects the kind alone."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return json.dumps(value)[:40]


def _param(location: Sequence[str | int]) -> str | None:
    """`("messages", 0, "content", "str")` -> `messages[0].content`: names of types are left out."""
    path = ""
    for depth, part in enumerate(location):
        if isinstance(part, int):
            path += f"[{part}]"
        elif depth == 0 or (part.isidentifier() and part not in ("str", "int", "float", "bool")):
            path += f".{part}" if path else part
        elif part == location[-1] and depth == len(location) - 1 and not path:
            path = part
    return path or None
