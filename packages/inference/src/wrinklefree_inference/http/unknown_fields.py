"""Fields of a request that this server does not know.

Clients of other servers send what those know (`num_ctx`, `cache_prompt`, `keep_alive`): it is ignored, and
their names stand in the request's log line and in the response header `x-wf-ignored`. A name that is nearly
one of ours, which the object does not have (`temprature`), is a slip and refused; so is any with
`wf serve --strict`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache, lru_cache
from itertools import islice
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

HEADER = "x-wf-ignored"
_MOST = 32
"""Different names that are ignored: more is no client's request."""
_NEAR = 0.85  # `max_token`, `topp`, `maxTokens`; not `max_new_tokens` or `repeat_penalty`, which others have
_LONGEST = 64
_PLAIN = re.compile(rf"[A-Za-z0-9_.-]{{1,{_LONGEST}}}")


@dataclass
class UnknownFields:
    """What one body has of them.

    Attributes:
        is_strict: Whether all are refused.
        names: Of those that are ignored, as `messages[].id`; no value, and nothing but plain characters.
    """

    is_strict: bool
    names: dict[str, None] = field(default_factory=dict)

    @property
    def header(self) -> str:
        """Value of the response header."""
        return ",".join(self.names)


_noted: ContextVar[UnknownFields | None] = ContextVar("unknown fields", default=None)


@contextmanager
def noting(is_strict: bool) -> Iterator[UnknownFields]:
    """Unknown fields of objects validated in the block are noted; outside of one they are refused."""
    unknown = UnknownFields(is_strict)
    token = _noted.set(unknown)
    try:
        yield unknown
    finally:
        _noted.reset(token)


def note_ignored(name: str) -> None:
    """Note something else that a body has in vain, by a name of ours."""
    unknown = _noted.get()
    if unknown is not None:
        unknown.names[name] = None


class Strict(BaseModel):
    """A JSON object whose known fields have exactly their types.

    `place` is what stands before its fields' names in the header: `stream_options.`.
    """

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)
    place: ClassVar[str] = ""

    @model_validator(mode="before")
    @classmethod
    def _notes_unknown_fields(cls, data: Any) -> Any:
        if isinstance(data, dict):
            unknown = _noted.get() or UnknownFields(is_strict=True)
            for name in islice((str(name) for name in data if name not in _names(cls)), _MOST + 1):
                _note(cls, name, data, unknown)
        return data


def _note(kind: type[Strict], name: str, data: dict[str, Any], unknown: UnknownFields) -> None:
    near = _nearest(kind, name) if len(name) <= _LONGEST else None
    if near is not None and near not in data:
        raise _refused(name, f"there is no such parameter; did you mean {near}?")
    if unknown.is_strict:
        raise _refused(name, "there is no such parameter")
    unknown.names[kind.place + (name if _PLAIN.fullmatch(name) else "?")] = None
    if len(unknown.names) > _MOST:
        raise _refused(name, f"more than {_MOST} parameters that this server does not know")


def _refused(name: str, reason: str) -> PydanticCustomError:
    shown = name[:100].encode("utf-8", "replace").decode()
    context = {"field": shown, "reason": reason, "code": "unknown_parameter"}
    return PydanticCustomError("unknown_field", "{reason}", context)


@cache
def _names(kind: type[Strict]) -> frozenset[str]:
    """As requests write them."""
    return frozenset(field.alias or name for name, field in kind.model_fields.items())


@lru_cache(maxsize=1024)
def _nearest(kind: type[Strict], name: str) -> str | None:
    """The field that is written nearly so, in whatever case."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_")
    return next(iter(get_close_matches(words, _names(kind), 1, _NEAR)), None)
