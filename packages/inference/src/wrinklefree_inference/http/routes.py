"""What answers which path, and what the OpenAPI page (`openapi.py`) says of it.

A handler may be named instead of given: its module is imported when its path is first asked for, so that a
server does not start with the schemas of bodies that nobody sends.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from wrinklefree_inference.http.errors import HANDLERS
from wrinklefree_inference.http.record import record_of
from wrinklefree_inference.http.strict_json import Bodies
from wrinklefree_inference.http.unknown_fields import HEADER


@dataclass(frozen=True)
class Handler:
    """What answers a path.

    Attributes:
        answer: From a request, and its body where it has one, to the response.
        name: In words.
        description: What it is for.
        body: What the request has, an object of JSON.
        content: What a success is; None where `responses` says it, or nothing does.
        responses: By status, as OpenAPI writes them, without their descriptions.
    """

    answer: Callable[..., Awaitable[Response]]
    name: str
    description: str
    body: type[BaseModel] | None = None
    content: type[BaseModel] | None = None
    responses: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)


def handler(
    body: type[BaseModel] | None = None,
    content: type[BaseModel] | None = None,
    responses: Mapping[int, Mapping[str, Any]] | None = None,
) -> Callable[[Callable[..., Awaitable[Response]]], Handler]:
    """Makes a `Handler` of a function, whose docstring is the description."""

    def made(answer: Callable[..., Awaitable[Response]]) -> Handler:
        name = answer.__name__.replace("_", " ").title()
        return Handler(answer, name, answer.__doc__ or "", body, content, responses or {})

    return made


@dataclass(frozen=True)
class Operation:
    """A method of a path; `load` gives who answers it."""

    method: str
    path: str
    id: str
    load: Callable[[], Handler]

    @cached_property
    def handler(self) -> Handler:
        """Who answers it, from the first request on."""
        return self.load()


def operation(method: str, path: str, handler: Handler) -> Operation:
    """One whose handler is there; its id is made of its words."""
    words = f"{handler.name} {path} {method}".lower()
    return Operation(method, path, re.sub(r"\W+", "_", words.replace(":path", "")), lambda: handler)


def new_app(
    title: str, operations: Sequence[Operation], bodies: Bodies | None = None, is_strict: bool = False
) -> Starlette:
    """An application whose errors are OpenAI's.

    Its page is /openapi.json; there is no /docs, which would load scripts from elsewhere.

    Args:
        operations: Of those with one path and method the first answers.
        bodies: Reads what is sent; needed where a handler has a body.
        is_strict: Whether the page says that unknown fields are refused.
    """

    async def page(request: Request) -> Response:
        from wrinklefree_inference.http.openapi import page_of

        return JSONResponse(page_of(title, operations, is_strict))

    routes = [_route(operation, bodies) for operation in operations]
    app = Starlette(routes=[*routes, _only("GET", Route("/openapi.json", page))], exception_handlers=HANDLERS)
    app.router.redirect_slashes = False
    return app


def _route(operation: Operation, bodies: Bodies | None) -> Route:
    async def answer(request: Request) -> Response:
        handler = operation.handler
        if handler.body is None:
            return await handler.answer(request)
        assert bodies is not None
        response = await handler.answer(request, await bodies.read(request, handler.body))
        if ignored := record_of(request.scope).ignored:
            response.headers[HEADER] = ignored
        return response

    return _only(operation.method, Route(operation.path, answer))


def _only(method: str, route: Route) -> Route:
    """Starlette adds HEAD to GET, and names it in a 405; here HEAD has become GET before (`boundary.py`)."""
    route.methods = {method}
    return route
