"""An application of operations (`handlers.py`)."""

from __future__ import annotations

import json
from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from wrinklefree_inference.http.errors import HANDLERS
from wrinklefree_inference.http.handlers import Operation
from wrinklefree_inference.http.record import record_of
from wrinklefree_inference.http.strict_json import Bodies
from wrinklefree_inference.http.unknown_fields import HEADER


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

    made: list[bytes] = []

    async def page(request: Request) -> Response:
        from wrinklefree_inference.http.openapi import page_of

        if not made:  # all handlers are imported for it
            found = await run_in_threadpool(page_of, title, operations, is_strict)
            made.append(json.dumps(found).encode())
        return Response(made[0], media_type="application/json")

    routes = [_route(operation, bodies) for operation in operations]
    app = Starlette(routes=[*routes, _only("GET", Route("/openapi.json", page))], exception_handlers=HANDLERS)
    app.router.redirect_slashes = False
    return app


def _route(operation: Operation, bodies: Bodies | None) -> Route:
    async def answer(request: Request) -> Response:
        handler = await operation.ready()
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
