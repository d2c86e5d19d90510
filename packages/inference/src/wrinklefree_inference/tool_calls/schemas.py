"""JSON schemas as clients send them: whether they are within bounds, and made narrow where they say nothing.

An object whose schema lists `properties` and says nothing of others would allow any. A model that may write
any does, and a function that is called with arguments it does not have fails; so such an object has its
listed properties alone. Where schemas are put together (`allOf`) that could forbid everything: they stay.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MAX_SCHEMA_CHARS = 1 << 16
MAX_DEPTH = 48
"""Objects and lists within each other: an argument ten levels deep has 30."""

_LISTS = ("anyOf", "oneOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_SINGLE = ("items", "additionalProperties", "contains", "propertyNames")
_OPENS = ("additionalProperties", "unevaluatedProperties", "patternProperties", "anyOf", "oneOf", "$ref")


def check_bounds(schema: Mapping[str, Any]) -> None:
    """Raise ValueError for one that is too large or too deep."""
    num_chars = len(json.dumps(schema, ensure_ascii=False))
    if num_chars > MAX_SCHEMA_CHARS:
        raise ValueError(f"the schema has {num_chars} characters, at most {MAX_SCHEMA_CHARS} are taken")
    depth, level = 0, [schema]
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"the schema is more than {MAX_DEPTH} objects and lists deep")
        level = [inner for value in level for inner in _inside(value)]


def _inside(value: Any) -> list[Any]:
    items = value.values() if isinstance(value, dict) else value
    return [item for item in items if isinstance(item, dict | list)]


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The same, without properties that nobody has listed; see the module."""
    return dict(schema) if '"allOf"' in json.dumps(schema) else _closed(schema)


def of_arguments(schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """The schema of a function's arguments: an object; without one, of no arguments.

    Raises:
        ValueError: It is the schema of something else.
    """
    if not schema:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    kind = schema.get("type", "object")
    if kind != "object":
        raise ValueError(
            f'the arguments of a function are an object: "type" must be "object", not {kind!r:.40}'
        )
    return closed({"type": "object", **schema})


def _closed(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    new = dict(schema)
    for key in _SINGLE:
        if key in new:
            new[key] = _closed(new[key])
    for key in _LISTS:
        if isinstance(new.get(key), list):
            new[key] = [_closed(each) for each in new[key]]
    for key in _NAMED:
        if isinstance(new.get(key), Mapping):
            new[key] = {name: _closed(each) for name, each in new[key].items()}
    if "properties" in new and not any(key in new for key in _OPENS):
        new["additionalProperties"] = False
    return new
