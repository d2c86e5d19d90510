"""Bodies of requests as JSON without the liberties that Python's reader takes.

A key that stands twice is refused: which of both counts differs between readers, so what a filter in front of
the server has seen may not be what is answered. NaN and infinities are no JSON. Nesting that ends Python's
recursion and numbers of thousands of digits are refused by `json` itself.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from wrinklefree_inference.http.errors import invalid


class StrictRequest(Request):
    """A request whose `json` is strict."""

    async def json(self) -> Any:
        """The body, read once.

        Raises:
            ApiError: 400.
        """
        if not hasattr(self, "_value"):
            self._value = _strict(await self.body())
        return self._value


class StrictRoute(APIRoute):
    """A route that reads its body as `StrictRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, for FastAPI."""
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            read = StrictRequest(request.scope, request.receive)
            if await read.body():
                await read.json()  # here, because FastAPI would hide what is wrong
            return await handle(read)

        return strict


def strict_router() -> APIRouter:
    """A router of such routes."""
    return APIRouter(route_class=StrictRoute)


def _strict(body: bytes) -> Any:
    try:
        return json.loads(body, object_pairs_hook=_object, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise invalid("the body is not valid JSON", code="invalid_json") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise invalid(f"{twice[:100]!r} stands twice in one object", code="invalid_json")
    return values


def _no_constant(name: str) -> NoReturn:
    raise invalid(f"{name} is not JSON", code="invalid_json")
