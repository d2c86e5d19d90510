"""How two configurations are compared, so that a key that is added later changes nothing at its default.

A record is what run.json holds of a run's configuration:

    values     `dotted.key` -> JSON value, lists as they are (`flatten`); what looks like a password or a key
               as `***`
    defaults   keys of these, those inside lists too (`data.sources[0].weight`), that have the value which
               their schema gives them
    types      `dotted.key` -> schema, where another could stand: optimizer, stage, each objective and source
    hidden     `dotted.key` -> digest of the real value of what is shown with `***` (hidden.py)

The fingerprint is the SHA-256 of the types, of what is not at its default and of what is hidden. So a schema
may get a key: runs at its default keep their fingerprint, and unfinished ones go on. Two records are compared
in full: a key that one of them lacks is no difference where the other has it at its default, and a default
that has become another is one. Records of before have `values` alone, or nothing of what is hidden; their
schemas all had keys of their own, so that a value which is not known here tells them apart.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field
from typing import Any

_VERSION = 2
_UNSET = "unset"
_HIDDEN = "hidden"
_IN_PATHS = re.compile(r"[\\.\[\]]")


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys; lists stay values. A dot in a key itself is escaped (`a\\.b`)."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, child in value.items():
        flat |= flatten(child, _path(prefix, key))
    return flat


def _path(prefix: str, key: object) -> str:
    escaped = _IN_PATHS.sub(r"\\\g<0>", str(key))
    return f"{prefix}.{escaped}" if prefix else escaped


def _as_before(path: str) -> str:
    """As it was before keys were escaped."""
    return re.sub(r"\\(.)", r"\1", path)


def expanded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Flat values with those inside lists of mappings as keys of their own."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            for number, item in enumerate(value):
                flat |= expanded(flatten(item, f"{key}[{number}]"))
        else:
            flat[key] = value
    return flat


def is_same(one: Any, other: Any) -> bool:
    """Whether two JSON values are: 1 is 1.0, and neither is true."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_same(child, other[key]) for key, child in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    return isinstance(one, bool) is isinstance(other, bool) and bool(one == other)


def digest(
    values: Mapping[str, Any], defaults: frozenset[str], types: Mapping[str, str], hidden: Mapping[str, str]
) -> str:
    """The fingerprint of a record."""
    given = {key: value for key, value in expanded(values).items() if key not in defaults}
    contents: dict[str, Any] = {"version": _VERSION, "types": dict(types), "values": given}
    if hidden:
        contents[_HIDDEN] = dict(hidden)
    canonical = json.dumps(contents, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def is_record(found: Any) -> bool:
    """Whether a JSON value has the form of a record, also of one of before."""
    return (
        isinstance(found, dict)
        and isinstance(found.get("values"), dict)
        and isinstance(found.get("defaults", []), list)
        and isinstance(found.get("types", {}), dict)
        and isinstance(found.get(_HIDDEN, {}), dict)
    )


def pairs_that_differ(here: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """`key` -> (there, here) of two records, `unset` where one has it not."""
    named = str if _HIDDEN in there else _as_before
    mine, theirs = (_renamed(expanded(record["values"]), named) for record in (here, there))
    defaults = {True: here.get("defaults", ()), False: there.get("defaults", ())}
    at_default = {is_mine: set(map(named, keys)) for is_mine, keys in defaults.items()}
    found = _types_that_differ(_renamed(here["types"], named), there.get("types"), theirs)
    for key in sorted(mine.keys() | theirs.keys()):
        if key in mine and key in theirs:
            is_equal = is_same(mine[key], theirs[key])
        else:
            is_equal = key in at_default[key in mine]
        if not is_equal:
            found[key] = (theirs.get(key, _UNSET), mine.get(key, _UNSET))
    return found


def hidden_that_differ(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """Keys whose real values differ, of two records; a record of before does not tell."""
    mine, theirs = here[_HIDDEN], there.get(_HIDDEN, here[_HIDDEN])
    return [key for key in sorted(mine.keys() | theirs.keys()) if mine.get(key) != theirs.get(key)]


def _renamed(values: Mapping[str, Any], named: Callable[[str], str]) -> dict[str, Any]:
    return {named(key): value for key, value in values.items()}


def _types_that_differ(
    here: Mapping[str, str], there: Mapping[str, str] | None, values: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Args: there is None in a record of before, which has `values` alone."""
    if there is None:
        there = {key: name for key, name in here.items() if any(map(_below(key), values))}
    keys = sorted(here.keys() | there.keys())
    pairs = {key: (there.get(key, _UNSET), here.get(key, _UNSET)) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _below(key: str) -> Any:
    return lambda other: other.startswith(f"{key}.")


def defaults_and_types(config: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Of a configuration, `dotted.key` -> default as JSON value, and -> schema where several could stand."""
    defaults, types = dict[str, Any](), dict[str, str]()
    for key, default, schema in _walk(config, MISSING, ""):
        if schema is not None:
            types[key] = schema
        elif default is not MISSING:
            defaults |= expanded(flatten(json.loads(json.dumps(default)), key))
    return defaults, types


def _walk(node: Any, default: Any, key: str) -> Iterator[tuple[str, Any, str | None]]:
    """(key, default, None) of each value, (key, _, schema) of each mapping whose schema could be another."""
    if dataclasses.is_dataclass(node):
        hints, like = typing.get_type_hints(type(node)), default if type(default) is type(node) else None
        for field in dataclasses.fields(node):
            child, name = getattr(node, field.name), _path(key, field.name)
            if dataclasses.is_dataclass(child) and hints[field.name] is not type(child):
                yield name, None, type(child).__name__
            known = _default_of(field) if like is None else getattr(like, field.name)
            yield from _walk(child, known, name)
    elif isinstance(node, dict) and node:
        for name, child in node.items():
            known = default.get(name, MISSING) if isinstance(default, dict) else MISSING
            yield from _entry(child, known, _path(key, name))
    elif isinstance(node, list) and any(map(dataclasses.is_dataclass, node)):
        for number, child in enumerate(node):
            yield from _entry(child, MISSING, f"{key}[{number}]")
    else:
        yield key, default, None


def _entry(child: Any, default: Any, key: str) -> Iterator[tuple[str, Any, str | None]]:
    """Of a mapping or list."""
    if dataclasses.is_dataclass(child):
        yield key, None, type(child).__name__
    yield from _walk(child, default, key)


def _default_of(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
