"""Requests of other protocols as chat requests: bounds, refusals and what is computed are those of
/v1/chat/completions; only names differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from wrinklefree_inference.http.chat_requests import ChatRequest
from wrinklefree_inference.http.errors import InvalidBody


def chat_request(fields: Mapping[str, Any], names: Mapping[str, str]) -> ChatRequest:
    """A chat request of fields; None is not given.

    Args:
        names: Chat's field -> what the client calls it, where that differs.

    Raises:
        InvalidBody: A value is refused; it names the client's field.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        return ChatRequest(**given)
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise InvalidBody([_renamed(one, names) for one in found]) from error


def _renamed(error: Any, names: Mapping[str, str]) -> dict[str, Any]:
    first = next(iter(error["loc"]), "")
    if first in names:  # what is inside of it may be elsewhere in the client's own
        return {**error, "loc": (names[first],)}
    context = error.get("ctx") or {}
    if not error["loc"] and context.get("field") in names:
        return {**error, "ctx": context | {"field": names[context["field"]]}}
    return dict(error)
