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
from collections.abc import Iterator
from typing import Any, NamedTuple

from data_handler.config import OnBadRecord, SourceConfig
from data_handler.errors import BadRecordError, DataError
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
    text: str
    before: Position
    after: Position


def hash_fraction(*key: int | str) -> float:
    """A number in [0, 1) that depends on the key alone, the same on every machine and version."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


class TextStream:
    """Iterates over `Document`s from the current position.

    Args:
        block_documents: documents that are read and shuffled together; 1 keeps the files' order.

    Raises:
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
    ) -> None:
        self.config = config
        self._source = open_source(config, shard, num_shards)
        self._shard, self._num_shards = (0, 1) if self._source.presharded else (shard, num_shards)
        self._seed = seed
        self._block_documents = block_documents
        self._skips = config.on_bad_record is OnBadRecord.skip
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
                text = texts[order[place]]
                if isinstance(text, Bad):
                    skipped = skipped.and_at(text.where)
                    self.position = Position(epoch, start, place + 1, skipped)
                elif text:
                    before = Position(epoch, start, place, skipped)
                    yield Document(text, before, before._replace(in_block=place + 1))
            done = 0

    def _shuffle_key(self, epoch: int, start: Cursor, place: int) -> float:
        return hash_fraction(self._seed, epoch, self._shard, start.documents, place)

    def _blocks(self, epoch: int, cursor: Cursor) -> Iterator[tuple[Cursor, list[str | Bad]]]:
        """Blocks of this shard's texts, in reading order, from a cursor on."""
        texts: list[str | Bad] = []
        start = cursor
        documents = cursor.documents
        order = self._part_order(epoch)
        for part in range(cursor.part, len(order)):
            reader = self._source.open(order[part], cursor.mark if part == cursor.part else None)
            for record in reader:
                if documents % self._num_shards == self._shard:
                    texts.append(self._text(reader, record))
                documents += 1
                if len(texts) == self._block_documents:
                    yield start, texts
                    texts, start = [], Cursor(part, reader.mark(), documents)
        self._documents_read = documents
        if texts:
            yield start, texts

    def _text(self, reader: Reader, record: Any) -> str | Bad:
        if not self._skips:
            return reader.text(record)
        try:
            return reader.text(record)
        except BadRecordError as error:
            if self._num_logged < SHOWN_PLACES:
                self._num_logged += 1
                logger.warning("source %r: passed over: %s", self.config.name, error)
            return Bad(error.where)

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
            raise DataError(
                f"source {name!r}: no text is left of {location}: {bad:,} records were passed over as bad, "
                f"the first at {self.position.skipped.first[0]}; mend them, or set another text_column"
            )
        if num_documents > self._shard:
            raise DataError(f"source {name!r}: every text of {location} is empty")
        if self.config.repeat:
            raise DataError(
                f"source {name!r} has {num_documents} documents for {self._num_shards} shards "
                "(ranks x workers): use fewer workers, or split the documents"
            )
