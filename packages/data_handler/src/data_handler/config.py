"""What the user says about a text source.

`SourceConfig` is also a valid OmegaConf schema, which is why `location` is `Any` (OmegaConf has no
unions with lists) and why the enum members are written as their values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from data_handler.errors import DataRequestError

_PYTHON_TEXTS = ("python_docs", "python_stdlib")
PACKAGED_TEXTS = (*_PYTHON_TEXTS, "chat")
SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet", ".txt")
"""Of files with text."""
MAX_RECORD_BYTES = 64 * 1024**2
_E = TypeVar("_E", bound=StrEnum)


class SourceKind(StrEnum):
    hub = "hub"
    path = "path"
    packaged = "packaged"


class TextUnit(StrEnum):
    """What one document is in a .txt file."""

    file = "file"
    paragraph = "paragraph"
    line = "line"


class OnBadRecord(StrEnum):
    """What a record that is not text means for the run."""

    stop = "stop"
    skip = "skip"


@dataclass
class SourceConfig:
    """One source of documents.

    Raises:
        DataRequestError: a value does not fit; the message names the source, the value and the fix.
    """

    kind: SourceKind
    """hub: a Hugging Face data set, streamed; path: local files; packaged: text that is always there."""
    name: str
    """Unique among the sources: weights, state and metrics go by it."""
    location: Any = None
    """hub: repository id or local folder (str); path: file or glob, or a list of them; packaged:
    'python_docs', 'python_stdlib', 'chat' or a list of them (None: `name` says which, 'python' is the
    first two)."""
    text_column: str = "text"
    """Field that holds the text (jsonl, parquet, hub)."""
    weight: float = 1.0
    """Share of the mixture's tokens, relative to the other sources."""
    split: str = "train"
    """hub: split name; packaged: 'train' (9 of 10 documents), 'validation' (the others) or 'all'."""
    subset: str | None = None
    """hub: configuration name of the data set."""
    repeat: bool = True
    """Start the next epoch at the end; False: the source leaves the mixture after one pass."""
    text_unit: TextUnit = TextUnit.file
    """txt: what one document is."""
    on_bad_record: OnBadRecord = OnBadRecord.stop
    """stop: a record that is not text (broken JSON, not UTF-8, too large) ends the run; skip: go on without
    it and count it. What makes the rest of a file unreadable (cut off gzip, broken parquet) ends the run
    either way."""
    max_record_bytes: int = MAX_RECORD_BYTES
    """A record (line, paragraph or value) of more bytes is bad; no more of it is held in memory."""

    def __post_init__(self) -> None:
        self.kind = _member(SourceKind, self.kind, self.name, "kind")
        self.text_unit = _member(TextUnit, self.text_unit, self.name, "text_unit")
        self.on_bad_record = _member(OnBadRecord, self.on_bad_record, self.name, "on_bad_record")
        if self.max_record_bytes < 1:
            raise DataRequestError(
                f"source {self.name!r}: max_record_bytes is {self.max_record_bytes!r}; it is at least 1"
            )
        if not isinstance(self.location, str | None):
            if not isinstance(self.location, Sequence):
                raise DataRequestError(
                    f"source {self.name!r}: location is {self.location!r}; give a string or a list"
                )
            self.location = [str(entry) for entry in self.location]
        check_weight(self.name, self.weight)
        if self.kind is SourceKind.packaged:
            self.packaged_texts()
        elif not self.location:
            raise DataRequestError(f"source {self.name!r} of kind {self.kind} needs a location")
        if self.kind is SourceKind.hub and not isinstance(self.location, str):
            raise DataRequestError(
                f"source {self.name!r}: a hub location is one repository id, not {self.location!r};"
                " make one source of each"
            )

    def packaged_texts(self) -> tuple[str, ...]:
        """Which of `PACKAGED_TEXTS` a packaged source has."""
        chosen = self.location or self.name
        if chosen == "python":
            return _PYTHON_TEXTS
        names = (chosen,) if isinstance(chosen, str) else tuple(chosen)
        if unknown := [name for name in names if name not in PACKAGED_TEXTS]:
            raise DataRequestError(
                f"source {self.name!r}: no packaged text {unknown[0]!r}; "
                f"location is one of {[*PACKAGED_TEXTS, 'python']}"
            )
        return names


def check_weight(name: str, weight: float) -> None:
    """Raises: DataRequestError unless the weight is a finite number of at least 0."""
    if not (isinstance(weight, int | float) and math.isfinite(weight) and weight >= 0):
        raise DataRequestError(f"source {name!r}: weight is {weight!r}; give a number of at least 0")


def _member(enum: type[_E], value: str, name: str, field: str) -> _E:
    try:
        return enum(value)
    except ValueError:
        known = [member.value for member in enum]
        raise DataRequestError(f"source {name!r}: {field} is {value!r}, not one of {known}") from None
