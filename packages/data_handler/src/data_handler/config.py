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
from data_handler.formats import FORMATS, TEXT, RecordFormat

_PYTHON_TEXTS = ("python_docs", "python_stdlib")
PACKAGED_TEXTS = (*_PYTHON_TEXTS, "chat")
SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet", ".txt")
"""Of files with text."""
TEXT_COLUMN = "text"
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


class OnTooLong(StrEnum):
    """What a supervised record of more tokens than a sequence means for the run."""

    stop = "stop"
    skip = "skip"
    truncate = "truncate"


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
    format: str = TEXT
    """text: plain documents, learned as a whole; chat, instruction, mnli, qnli, sst2, cnn_dailymail: records
    of which the model learns the answers, in its own chat template (jsonl, parquet, hub)."""
    text_column: str = TEXT_COLUMN
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
    on_too_long: OnTooLong = OnTooLong.stop
    """A record (not of text) that has more tokens than a sequence. stop: it is a bad record, see
    on_bad_record; skip: go on without it and count it; truncate: leave out the beginning of what stands
    before the first answer; a record whose answers alone are too long stays a bad one."""
    max_record_bytes: int = MAX_RECORD_BYTES
    """A record (line, paragraph or value) of more bytes is bad; no more of it is held in memory."""

    def __post_init__(self) -> None:
        self.kind = _member(SourceKind, self.kind, self.name, "kind")
        self.text_unit = _member(TextUnit, self.text_unit, self.name, "text_unit")
        self.on_bad_record = _member(OnBadRecord, self.on_bad_record, self.name, "on_bad_record")
        self.on_too_long = _member(OnTooLong, self.on_too_long, self.name, "on_too_long")
        self._check_format()
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

    @property
    def record_format(self) -> RecordFormat | None:
        """None: the source is text."""
        return FORMATS.get(self.format)

    @property
    def contents(self) -> list[str]:
        """The settings that say what of a file is read."""
        return [self.text_column] if self.record_format is None else [self.format]

    @property
    def may_skip(self) -> bool:
        """Whether a record may be passed over."""
        return OnBadRecord.skip is self.on_bad_record or OnTooLong.skip is self.on_too_long

    def _check_format(self) -> None:
        known = [TEXT, *FORMATS]
        if self.format not in known:
            raise DataRequestError(f"source {self.name!r}: format is {self.format!r}, not one of {known}")
        if self.format == TEXT:
            if self.on_too_long is not OnTooLong.stop:
                raise DataRequestError(
                    f"source {self.name!r}: on_too_long is for records, and format is {TEXT!r}, which is cut "
                    f"where a sequence ends; leave it out, or set format to one of {known[1:]}"
                )
            return
        if self.kind is SourceKind.packaged:
            raise DataRequestError(
                f"source {self.name!r}: packaged sources are text, not {self.format!r} records; leave it out"
            )
        if self.text_column != TEXT_COLUMN:
            raise DataRequestError(
                f"source {self.name!r}: text_column is {self.text_column!r}, and {self.format!r} records "
                f"have fields of their own ({', '.join(FORMATS[self.format].fields)}); leave it out"
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
