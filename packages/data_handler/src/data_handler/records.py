"""What every reader shares: the interface, what a record may be, and how a bad one is described."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from data_handler.config import MAX_RECORD_BYTES, OnBadRecord, SourceConfig
from data_handler.describing import SHOWN_CHARACTERS, kind_of
from data_handler.errors import BadRecordError, DataError

_SHOWN_NAMES = 20
_CHAT_FIELDS = ("messages", "conversations", "conversation")
_CHAT_TEXT = (
    "write each conversation into one field, as the model's own "
    "tokenizer.apply_chat_template(messages, tokenize=False) makes it"
)
_SKIP = "on_bad_record: skip (for the first source data.sources.0.on_bad_record=skip) to go on without it"


class Rules(NamedTuple):
    """What a record may be, and what the user can do about one that is not.

    Attributes:
        skips: bad records are passed over, so a reader must be able to go on after one.
        column_advice: stands before the names of the columns that there are.
        chat_advice: what to do with conversations where text is wanted.
    """

    max_bytes: int = MAX_RECORD_BYTES
    skips: bool = False
    advice: str = "mend or remove it"
    size_advice: str = "split it into smaller ones"
    column_advice: str = "that field is read here, of"
    chat_advice: str = f"chat records are not text: {_CHAT_TEXT}"

    @classmethod
    def of(cls, config: SourceConfig) -> Rules:
        return cls(
            config.max_record_bytes,
            config.on_bad_record is OnBadRecord.skip,
            f"mend or remove it, or set {_SKIP}",
            f"split it, raise max_record_bytes, or set {_SKIP}",
            "set text_column to one of",
            f"chat records are not text: set format: chat to train on their answers, or {_CHAT_TEXT}",
        )

    def refuse(self, where: str, problem: str) -> NoReturn:
        """Raises: BadRecordError."""
        raise BadRecordError(f"{where}: {problem}; {self.advice}", where)

    def refuse_size(self, where: str) -> NoReturn:
        """Raises: BadRecordError."""
        raise BadRecordError(
            f"{where}: more than {self.max_bytes:,} bytes in one record; {self.size_advice}", where
        )


class Reader(ABC):
    """Iterates over the raw records after a mark (None: from the start)."""

    @abstractmethod
    def mark(self) -> Any:
        """JSON-serialisable position after the record yielded last."""

    @abstractmethod
    def __iter__(self) -> Iterator[Any]: ...

    @abstractmethod
    def text(self, record: Any) -> str:
        """The text of the record yielded last. Raises: BadRecordError naming file and record."""

    @abstractmethod
    def place(self, record: Any) -> str:
        """Where the record yielded last is: file and line or record."""

    def fields(self, record: Any) -> tuple[str, Mapping[str, Any]]:
        """Where the record yielded last is, and all its fields (of the formats that have some).

        Raises: BadRecordError for what has no fields.
        """
        raise NotImplementedError(f"{type(self).__name__} reads text, not records")


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Raises: DataError for a file that cannot be opened or read (gone, denied, a failing disk)."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}); check that it is there and yours to read"
        ) from error


def field_text(record: Any, column: str, rules: Rules, where: Callable[[], str]) -> str:
    """record[column] if that is a text; `where` is asked for errors only. Raises: BadRecordError."""
    if not isinstance(record, dict):
        rules.refuse(where(), f"a JSON object with the field {column!r} is wanted, here is {kind_of(record)}")
    if column not in record:
        rules.refuse(where(), f"no field {column!r}; {column_advice(record, rules)}")
    text = record[column]
    if not isinstance(text, str):
        advice = f"; {rules.chat_advice}" if is_chat(text) else ""
        rules.refuse(where(), f"field {column!r} holds {kind_of(text)}, not text{advice}")
    return text


def is_chat(value: object) -> bool:
    """A list of objects, as `messages` of chat data sets are."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def column_advice(names: Iterable[object], rules: Rules) -> str:
    """Which column to take, for a message."""
    known = sorted(map(str, names))
    if chat := [name for name in _CHAT_FIELDS if name in known]:
        return f"there is {chat[0]!r}: {rules.chat_advice}"
    more = f" and {len(known) - _SHOWN_NAMES} more" if len(known) > _SHOWN_NAMES else ""
    first = [name[:SHOWN_CHARACTERS] for name in known[:_SHOWN_NAMES]]
    return f"{rules.column_advice} {first}{more}"
