"""The interface of a format: from the fields of a record to the messages of a conversation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from data_handler.describing import kind_of

Message = dict[str, str]
"""`role` and `content`, as chat templates know them."""


class UnfitRecordError(ValueError):
    """A record is not of its format; the message names the field, what is there and what is wanted."""


class RecordFormat(ABC):
    """One kind of supervised record."""

    fields: tuple[str, ...]
    """Every field that may be read; a record needs not have all."""

    @abstractmethod
    def messages(self, record: Mapping[str, Any]) -> list[Message]:
        """The conversation of a record; a model learns what the assistant says in it.

        Raises: UnfitRecordError.
        """


def field(record: Mapping[str, Any], name: str) -> Any:
    """Raises: UnfitRecordError for a record without it."""
    if name not in record:
        names = sorted(map(str, record))[:20]
        raise UnfitRecordError(f"no field {name!r}; it has {names}")
    return record[name]


def text_of(record: Mapping[str, Any], name: str) -> str:
    """A text, without white space around it; it may be empty.

    Raises: UnfitRecordError for a missing field or another type.
    """
    value = field(record, name)
    if not isinstance(value, str):
        raise UnfitRecordError(f"field {name!r} holds {kind_of(value)}, not text")
    return value.strip()


def filled(record: Mapping[str, Any], name: str) -> str:
    """A text that is not empty. Raises: UnfitRecordError."""
    text = text_of(record, name)
    if not text:
        raise UnfitRecordError(f"field {name!r} is empty")
    return text


def answer_of(record: Mapping[str, Any], name: str) -> str:
    """What a model learns to say. Raises: UnfitRecordError for none."""
    text = text_of(record, name)
    if not text:
        raise UnfitRecordError(f"the answer, field {name!r}, is empty: there is nothing to learn")
    return text


def exchange(prompt: str, answer: str) -> list[Message]:
    """A conversation of one question."""
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
