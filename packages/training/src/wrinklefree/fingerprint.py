"""How two configurations are compared, so that a key that is added later changes nothing at its default.

A record is what run.json holds of a run's configuration:

    values     `dotted.key` -> JSON value, lists as they are (`flatten`)
    defaults   keys of these, those inside lists too (`data.sources[0].weight`), that have the value which
               their schema gives them
    types      `dotted.key` -> schema, where another could stand: optimizer, stage, each objective and source

The fingerprint is the SHA-256 of the types and of what is not at its default. So a schema may get a key: runs
at its default keep their fingerprint, and unfinished ones go on. Two records are compared in full: a key that
one of them lacks is no difference where the other has it at its default, and a default that has become
another is one. Records of before have `values` alone; their schemas all had keys of their own, so that a
value which is not known here tells them apart.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field
from typing import Any

_VERSION = 2
_UNSET = "unset"


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys; lists stay values."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, child in value.items():
        flat |= flatten(child, f"{prefix}.{key}" if prefix else str(key))
    return flat


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


def digest(values: Mapping[str, Any], defaults: frozenset[str], types: Mapping[str, str]) -> str:
    """The fingerprint of a record."""
    given = {key: value for key, value in expanded(values).items() if key not in defaults}
    contents = {"version": _VERSION, "types": dict(types), "values": given}
    canonical = json.dumps(contents, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def is_record(found: Any) -> bool:
    """Whether a JSON value has the form of a record, also of one of before."""
    return (
        isinstance(found, dict)
        and isinstance(found.get("values"), dict)
        and isinstance(found.get("defaults", []), list)
        and isinstance(found.get("types", {}), dict)
    )


def pairs_that_differ(here: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """`key` -> (there, here) of two records, `unset` where one has it not."""
    mine, theirs = expanded(here["values"]), expanded(there["values"])
    found = _types_that_differ(here["types"], there.get("types"), theirs)
    for key in sorted(mine.keys() | theirs.keys()):
        if key in mine and key in theirs:
            is_same = mine[key] == theirs[key]
        else:
            is_same = key in (here if key in mine else there).get("defaults", ())
        if not is_same:
            found[key] = (theirs.get(key, _UNSET), mine.get(key, _UNSET))
    return found


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
            child, name = getattr(node, field.name), f"{key}.{field.name}" if key else field.name
            if dataclasses.is_dataclass(child) and hints[field.name] is not type(child):
                yield name, None, type(child).__name__
            known = _default_of(field) if like is None else getattr(like, field.name)
            yield from _walk(child, known, name)
    elif isinstance(node, dict) and node:
        for name, child in node.items():
            yield from _entry(
                child, default.get(name, MISSING) if isinstance(default, dict) else MISSING, f"{key}.{name}"
            )
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
