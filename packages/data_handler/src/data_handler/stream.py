"""Documents of one source, for one shard, shuffled, epoch after epoch, resumable.

Sharding: document i of an epoch belongs to shard i % num_shards, so shards differ by at most one
document an epoch. Shuffling: the order of the parts (files) and then the order of the documents
within blocks of `block_documents` of this shard, by a hash of (seed, epoch, place). A position is
(epoch, where the block starts, place in the block): small, and going back to it reads at most one
block again. A shuffle buffer would mix a little better, but its state is its content.

A bad record that is passed over (`on_bad_record: skip`) keeps its place, as an empty text, so it changes
neither shards nor order; it is counted when the stream comes past its place.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from data_handler.config import OnBadRecord, OnTooLong, SourceConfig
from data_handler.errors import BadRecordError, DataError, DataRequestError, HeldOutError, TooLongError
from data_handler.held_out import HeldOut, PlacedText
from data_handler.records import Reader
from data_handler.skipped import NO_RECORDS, SHOWN_PLACES, Skipped
from data_handler.sources.opening import open_source

logger = logging.getLogger(__name__)

DEFAULT_BLOCK_DOCUMENTS = 1024


class Cursor(NamedTuple):
    """Where a block starts: part (in the epoch's order), mark in it, documents of all shards before."""

    part: int = 0
    mark: Any = None
    documents: int = 0


class Position(NamedTuple):
    """Between which two documents the stream stands, and which records were passed over up to there."""

    epoch: int = 0
    block_start: Cursor = Cursor()
    in_block: int = 0
    skipped: Skipped = NO_RECORDS

    def to_json(self) -> list[Any]:
        return [self.epoch, list(self.block_start), self.in_block, self.skipped.to_json()]

    @classmethod
    def from_json(cls, value: Any) -> Position:
        epoch, cursor, in_block, skipped = value
        return cls(epoch, Cursor(*cursor), in_block, Skipped.from_json(skipped))


class Bad(NamedTuple):
    """In the place of a record that is not text."""

    where: str


class Document(NamedTuple):
    """content: a text, or what the source's `Reading` makes of a record."""

    content: Any
    before: Position
    after: Position

    @property
    def text(self) -> str:
        assert isinstance(self.content, str)
        return self.content


class Reading(Protocol):
    """How a record becomes the content of a document, in two steps: a block of records is held read, and
    each is finished when its turn comes. An empty content is left out.
    """

    def read(self, reader: Reader, record: Any) -> Any:
        """Of the record yielded last. Raises: BadRecordError."""

    def words(self, read: Any) -> str:
        """All the text of what was read, by which a document is known (held_out.py)."""

    def finish(self, read: Any) -> Any:
        """The content. Raises: BadRecordError."""


class TextReading:
    """Plain texts."""

    def read(self, reader: Reader, record: Any) -> str:
        return reader.text(record)

    def words(self, read: str) -> str:
        return read

    def finish(self, read: str) -> str:
        return read


def hash_fraction(*key: int | str) -> float:
    """A number in [0, 1) that depends on the key alone, the same on every machine and version."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


class TextStream:
    """Iterates over `Document`s from the current position.

    Args:
        block_documents: documents that are read and shuffled together; 1 keeps the files' order.
        reading: what documents hold; None: text.
        held_out: documents that are refused or passed over.

    Raises:
        DataRequestError: a source of records without a reading.
        DataError: while iterating: an empty source, fewer documents than shards (if the source
            repeats), a damaged record.
    """

    def __init__(
        self,
        config: SourceConfig,
        shard: int = 0,
        num_shards: int = 1,
        seed: int = 0,
        block_documents: int = DEFAULT_BLOCK_DOCUMENTS,
        reading: Reading | None = None,
        held_out: HeldOut | None = None,
    ) -> None:
        if reading is None and config.record_format is not None:
            raise DataRequestError(
                f"source {config.name!r} holds {config.format!r} records, which become text in a model's "
                "chat template only; leave format out to read a field as text"
            )
        self.config = config
        self._reading = reading or TextReading()
        self._held_out = held_out
        self._source = open_source(config, shard, num_shards)
        self._shard, self._num_shards = (0, 1) if self._source.presharded else (shard, num_shards)
        self._seed = seed
        self._block_documents = block_documents
        self._num_logged = 0
        self.position = Position()
        self._documents_read = 0

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position.to_json()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = Position.from_json(state["position"])

    def __iter__(self) -> Iterator[Document]:
        while True:
            from_start = self.position[:3] == Position(self.position.epoch)[:3]
            skipped = self.position.skipped
            kept = 0
            for document in self._epoch():
                kept += 1
                self.position = document.after
                yield document
            if from_start and kept == 0:
                self._check_not_empty(self._documents_read, skipped)
            if not self.config.repeat:
                return
            self.position = Position(self.position.epoch + 1, skipped=self.position.skipped)

    def _epoch(self) -> Iterator[Document]:
        """The rest of the current epoch."""
        epoch, cursor, done, skipped = self.position
        for start, texts in self._blocks(epoch, cursor):
            order = sorted(range(len(texts)), key=lambda i: self._shuffle_key(epoch, start, i))
            for place in range(done, len(texts)):
                content = self._finished(texts[order[place]])
                if isinstance(content, Bad):
                    skipped = skipped.and_at(content.where)
                    self.position = Position(epoch, start, place + 1, skipped)
                elif content:
                    before = Position(epoch, start, place, skipped)
                    yield Document(content, before, before._replace(in_block=place + 1))
            done = 0

    def _shuffle_key(self, epoch: int, start: Cursor, place: int) -> float:
        return hash_fraction(self._seed, epoch, self._shard, start.documents, place)

    def _blocks(self, epoch: int, cursor: Cursor) -> Iterator[tuple[Cursor, list[Any]]]:
        """Blocks of what is read of this shard's records, in reading order, from a cursor on."""
        texts: list[Any] = []
        start = cursor
        documents = cursor.documents
        order = self._part_order(epoch)
        for part in range(cursor.part, len(order)):
            reader = self._source.open(order[part], cursor.mark if part == cursor.part else None)
            for record in reader:
                if documents % self._num_shards == self._shard:
                    texts.append(self._guarded(self._read, reader, record))
                documents += 1
                if len(texts) == self._block_documents:
                    yield start, texts
                    texts, start = [], Cursor(part, reader.mark(), documents)
        self._documents_read = documents
        if texts:
            yield start, texts

    def _read(self, reader: Reader, record: Any) -> Any:
        read = self._reading.read(reader, record)
        if self._held_out is not None:
            self._held_out.check(PlacedText(self._reading.words(read), reader.place(record)))
        return read

    def _finished(self, read: Any) -> Any:
        return read if isinstance(read, Bad) else self._guarded(self._reading.finish, read)

    def _guarded(self, step: Callable[..., Any], *args: Any) -> Any:
        """What the step gives, or a `Bad` for a record that may be passed over."""
        try:
            return step(*args)
        except BadRecordError as error:
            if not self._passes_over(error):
                raise
            if self._num_logged < SHOWN_PLACES:
                self._num_logged += 1
                logger.warning("source %r: passed over: %s", self.config.name, error)
            return Bad(error.where)

    def _passes_over(self, error: BadRecordError) -> bool:
        if isinstance(error, HeldOutError):
            return self._held_out is not None and self._held_out.drop
        if self.config.on_bad_record is OnBadRecord.skip:
            return True
        return isinstance(error, TooLongError) and self.config.on_too_long is OnTooLong.skip

    def _part_order(self, epoch: int) -> list[int]:
        parts = range(self._source.num_parts)
        if self._block_documents == 1:
            return list(parts)
        return sorted(parts, key=lambda part: hash_fraction(self._seed, epoch, part))

    def _check_not_empty(self, num_documents: int, before: Skipped) -> None:
        name, location = self.config.name, self.config.location
        if num_documents == 0:
            raise DataError(f"source {name!r} is empty: no document in {location}")
        if (bad := self.position.skipped.records - before.records) > 0:
            what = "bad" if self._held_out is None else "bad or held out"
            mend = "mend them" if self._held_out is None else "mend them, hold out other documents"
            raise DataError(
                f"source {name!r}: no text is left of {location}: {bad:,} records were passed over as "
                f"{what}, the first at {self.position.skipped.first[0]}; {mend}, or set another "
                f"{'text_column' if self.config.record_format is None else 'format or on_too_long'}"
            )
        if num_documents > self._shard:
            raise DataError(f"source {name!r}: every text of {location} is empty")
        if self.config.repeat:
            raise DataError(
                f"source {name!r} has {num_documents} documents for {self._num_shards} shards "
                "(ranks x workers): use fewer workers, or split the documents"
            )
