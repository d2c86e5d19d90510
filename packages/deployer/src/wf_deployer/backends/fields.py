"""Dataclasses from JSON that nobody vouches for: every field is there, of its kind, and no other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

from wf_deployer.backends.base import Resources
from wf_deployer.backends.service import Service
from wf_deployer.errors import CommandError
from wf_formats.json_file import read_value

T = TypeVar("T")
_LARGEST = 1e12
"""Seconds since 1970 and pids are far below; beyond it floats cannot be shown as times."""


def _is_int(value: Any) -> bool:
    return type(value) is int and abs(value) < _LARGEST


def _is_number(value: Any) -> bool:
    return _is_int(value) or (type(value) is float and math.isfinite(value) and abs(value) < _LARGEST)


def _is_list_of_texts(value: Any) -> bool:
    return type(value) is list and all(type(item) is str for item in value)


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "int": (_is_int, "a whole number"),
    "float": (_is_number, "a number"),
    "bool": (lambda value: type(value) is bool, "true or false"),
    "int | None": (lambda value: value is None or _is_int(value), "a whole number or null"),
    "str": (lambda value: type(value) is str and "\0" not in value, "text"),
    "str | None": (lambda value: value is None or (type(value) is str and "\0" not in value), "text or null"),
    "float | None": (lambda value: value is None or _is_number(value), "a number or null"),
    "Service | None": (lambda value: value is None or type(value) is Service, "an object or null"),
    "dict[str, list[str]] | None": (
        lambda value: value is None or (type(value) is dict and all(map(_is_list_of_texts, value.values()))),
        "an object of lists of texts, or null",
    ),
    "Resources": (lambda value: type(value) is Resources, "an object"),
    "list[str]": (_is_list_of_texts, "a list of texts"),
}
"""A field's annotation, as it is written -> check and name."""


def is_there(path: Path) -> bool:
    """Whether there is a file of a record. Raises: CommandError for a pipe or a folder, which none is."""
    if path.exists() and not path.is_file():
        raise CommandError(f"{path} is damaged: it is no regular file")
    return path.is_file()


def read_from_json(kind: type[T], path: Path) -> T | None:
    """`from_json` of a file; None: it is not there (yet)."""
    return from_json(kind, read_value(path, CommandError), path) if is_there(path) else None


def from_json(kind: type[T], value: Any, path: Path) -> T:
    """An instance of a dataclass whose annotations are in `_KINDS`.

    Args:
        path: For messages.

    Raises:
        CommandError: a field is missing, unknown or of another kind; names it.
    """
    if not isinstance(value, dict):
        raise CommandError(f"{path} is damaged: {kind.__name__} is {value!r:.60}, not an object")
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]  # a dataclass
    if unknown := value.keys() - known.keys():
        raise CommandError(f"{path} is damaged: {min(unknown)!r:.60} is unknown")
    for name, field in known.items():
        if name not in value:
            if field.default is MISSING:
                raise CommandError(f"{path} is damaged: {name} is missing")
            continue
        is_right, wanted = _KINDS[str(field.type)]
        if not is_right(value[name]):
            raise CommandError(f"{path} is damaged: {name} is {value[name]!r:.60}, not {wanted}")
    return kind(**value)
