"""Bodies of requests as JSON without the liberties that Python's reader takes.

A key that stands twice is refused: which of both counts differs between readers, so what a filter in front of
the server has seen may not be what is answered. NaN and infinities are no JSON. Nesting that ends Python's
recursion is refused by `json` itself.

A large body is read and checked in a thread, one at a time, and clients take turns; what it may hold at most
is decided before (`json_bounds.py`), because Python's reader lets nobody else run while it makes its objects.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from wrinklefree_inference.http.errors import InvalidBody, invalid
from wrinklefree_inference.http.json_bounds import JsonBounds
from wrinklefree_inference.http.record import record_of
from wrinklefree_inference.http.sse import unless_client_leaves
from wrinklefree_inference.http.turns import Turns
from wrinklefree_inference.http.unknown_fields import noting

_IN_LOOP_BYTES = 16 << 10  # at most 600 small messages, 10 ms
_MOST_DIGITS = 64

Body = TypeVar("Body", bound=BaseModel)


class Bodies:
    """Reads the bodies of one server.

    Args:
        is_strict: Unknown fields are refused (`unknown_fields.py`).
    """

    def __init__(self, bounds: JsonBounds, is_strict: bool = False) -> None:
        self._bounds, self._is_strict = bounds, is_strict
        self._turns = Turns("reading of large bodies")

    async def read(self, request: Request, kind: type[Body]) -> Body:
        """A request's body.

        Raises:
            ApiError: 400 for what is no strict JSON or too many values, 429 if the client sends too many.
            InvalidBody: The values are not what `kind` has.
            ClientLeft: It did.
        """
        body = await request.body()
        if not body:
            raise invalid("the body is missing: send a JSON object", code="invalid_json")
        work = partial(self._checked, body, kind)
        record = record_of(request.scope)
        if len(body) <= _IN_LOOP_BYTES:
            value, record.ignored = work()
        else:
            turn = self._turns.run(record.client, work)
            value, record.ignored = await unless_client_leaves(request.receive, turn)
        return value

    def _checked(self, body: bytes, kind: type[Body]) -> tuple[Body, str]:
        """With the names of the fields that are ignored."""
        self._bounds.check(body)
        with noting(self._is_strict) as unknown:
            value = _strict(body)
            if not isinstance(value, dict):
                raise invalid("the body is not a JSON object")
            try:
                return kind.model_validate(value, from_attributes=True), unknown.header
            except ValidationError as error:
                raise InvalidBody(error.errors(include_url=False)) from error


def _strict(body: bytes) -> Any:
    try:
        # Of bytes `json` would take UTF-16 and -32 too, whose values nobody has counted.
        text = body.decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=_object, parse_int=_integer, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise invalid("the body is not valid JSON", code="invalid_json") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise invalid(f"{twice[:100]!r} stands twice in one object", code="invalid_json")
    return values


def _integer(text: str) -> int:
    """The beginning of a number: beyond all bounds already, so that its field refuses it.

    To read the rest takes time quadratic in its length, and beyond 4,300 digits Python refuses to.
    """
    return int(text[:_MOST_DIGITS])


def _no_constant(name: str) -> NoReturn:
    raise invalid(f"{name} is not JSON", code="invalid_json")
