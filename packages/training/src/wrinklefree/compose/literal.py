"""Overrides of keys that hold text are text, whatever is in them.

To Hydra `experiment=1e5` is a number, `model.name=/a,b` a sweep and `output_dir=/it's` an error. Where the
schema wants text, the value is quoted before Hydra reads it (wf_formats.overrides). Left as they are: what
is quoted already, `null` where a key may have no value, and interpolations.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from wf_formats.overrides import override
from wrinklefree.compose.roots import TRAIN, Root
from wrinklefree.compose.schemas import OBJECTIVES_KEY, TEACHER_KEY, deriving_from
from wrinklefree.config.model import TeacherConfig
from wrinklefree.objectives.registry import objective_schema
from wrinklefree.plugins import UnknownNameError
from wrinklefree.teachers.registry import teacher_schema

_OVERRIDE = re.compile(r"(\+{0,2}[\w.]+)=(.*)", re.DOTALL)
_QUOTED = re.compile(r"(['\"]).*\1", re.DOTALL)


def literal(overrides: Sequence[str], root: Root = TRAIN) -> list[str]:
    """The overrides with the values of text keys quoted."""
    kinds = [text.partition("=")[2] for text in overrides if text.startswith(f"{TEACHER_KEY}.kind=")]
    teacher = kinds[-1] if kinds else TeacherConfig.kind
    return [_literal(text, teacher, root) for text in overrides]


def _literal(text: str, teacher: str, root: Root) -> str:
    match = _OVERRIDE.fullmatch(text)
    if match is None:
        return text
    key, value = match.groups()
    kinds = set(_kinds(key.lstrip("+"), teacher, root))
    is_null = value.lower() == "null" and str | None in kinds
    if not kinds & {str, str | None} or is_null or _QUOTED.fullmatch(value) or "${" in value:
        return text
    return override(key, value)


def _kinds(key: str, teacher: str, root: Root) -> Iterator[Any]:
    """The types of a dotted key, one for each schema that has it; none for a plugin that is not there.

    Args: teacher is the kind of teacher that the overrides ask for.
    """
    try:
        if key.startswith(f"{TEACHER_KEY}."):
            return _below([teacher_schema(teacher)], key.removeprefix(f"{TEACHER_KEY}."))
        if key.startswith(f"{OBJECTIVES_KEY}."):
            name, _, rest = key.removeprefix(f"{OBJECTIVES_KEY}.").partition(".")
            return _below([objective_schema(name)], rest)
    except UnknownNameError:  # refused by name when it is typed
        return iter(())
    return _below([root.schema], key)


def _below(schemas: Iterable[type], key: str) -> Iterator[Any]:
    """The same below any of the schemas."""
    name, _, rest = key.partition(".")
    for schema in schemas:
        hint = typing.get_type_hints(schema).get(name)
        if not rest and hint is not None:
            yield hint
        elif isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield from _below(deriving_from(hint), rest)
