"""Values in JSON schemas that answers could not be held to, though llguidance takes them.

llguidance reads numbers as float64 and integers within int64, so that a bound beyond 2^53 becomes another one
without a word; it reads `a*{9}` as `(a*){9}`, where JSON schema's regular expressions (ECMA-262) have no such
pattern; and half a surrogate pair breaks the text of its grammar.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

MAX_NUMBER = 2**53 - 1
"""Up to here every integer is a float64 of its own."""
MAX_INT64 = 2**63 - 1

_BOUNDS = frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"))
_ANSWERS = ("const", "enum")
_REMARKS = ("default", "example", "examples")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")

_LITERAL = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]?", re.DOTALL)  # unclosed ones too: linear time
_TIMES = r"(?:[*+]|\{\d+(?:,\d*)?\})"
_REPEATED_TWICE = re.compile(rf"{_TIMES}\??{_TIMES}|{_TIMES}\?\?|(?<!\()\?{_TIMES}|\?\?(?:\?|{_TIMES})")


def check_values(schema: Mapping[str, Any]) -> None:
    """Check a schema, whose depth is within bounds.

    Raises:
        ValueError: It has a number, a pattern or a text that answers cannot be held to; the message names it.
    """
    try:
        json.dumps(schema, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])[1:-1]
        raise ValueError(f"the schema has half a surrogate pair, {half}, which is not text") from error
    for place, owner, key in _keywords(schema, ""):
        value = owner[key]
        if key in _BOUNDS:
            _check_number(place, value)
        elif key in _ANSWERS:
            _check_answer(place, value)
        elif key == "pattern" and isinstance(value, str):
            _check_pattern(place, value)
        elif key == "patternProperties" and isinstance(value, Mapping):
            for pattern in value:
                _check_pattern(place, pattern)


def without_idle_bounds(schema: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The same without bounds that lie at or beyond those of their type, and the keywords of these.

    Generators of schemas write the bounds of their language's number types: of 64-bit integers, or of floats
    where numbers may have fractions. They say no more than what who reads the number can hold, whatever the
    schema says; and llguidance could not hold to them exactly.
    """
    kept = deepcopy(dict(schema))
    idle = [(owner, key) for _, owner, key in _keywords(kept, "") if _is_idle(owner, key)]
    for owner, key in idle:
        del owner[key]
    return kept, sorted({key for _, key in idle})


def _is_idle(schema: Mapping[str, Any], key: str) -> bool:
    value = schema[key]
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    most = MAX_INT64 if schema.get("type") in ("integer", ["integer", "null"]) else sys.float_info.max
    if key in ("maximum", "exclusiveMaximum"):
        return value >= most
    return key in ("minimum", "exclusiveMinimum") and value <= -most


def _keywords(value: Any, place: str) -> Iterator[tuple[str, Any, str]]:
    """Where each keyword stands, the schema that has it, and it; also in parts that only a `$ref` makes
    schemas of."""
    if isinstance(value, list):
        for i, each in enumerate(value):
            yield from _keywords(each, f"{place}[{i}]")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            inside = f"{place}.{key}" if place else key
            yield inside, value, key
            if key in _NAMED and isinstance(inner, Mapping):
                for name, each in inner.items():
                    yield from _keywords(each, f"{inside}.{name}")
            elif key not in _ANSWERS and key not in _REMARKS:
                yield from _keywords(inner, inside)


def _check_number(place: str, value: Any) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and not -MAX_NUMBER <= value <= MAX_NUMBER:
        raise ValueError(
            f"{place[-200:]} is {value!r:.40}: answers are held to numbers of -{MAX_NUMBER} to {MAX_NUMBER}"
        )


def _check_answer(place: str, value: Any) -> None:
    """Integers alone: a float of any size is itself."""
    if isinstance(value, int):
        _check_number(place, value)
    elif isinstance(value, list | Mapping):
        for each in value.values() if isinstance(value, Mapping) else value:
            _check_answer(place, each)


def _check_pattern(place: str, pattern: str) -> None:
    twice = _REPEATED_TWICE.search(_LITERAL.sub("x", pattern))
    if twice is not None:
        raise ValueError(
            f"{place[-200:]} has {twice[0]:.40} in a pattern, which repeats a repetition: put what it "
            "repeats in parentheses"
        )
