"""Probe sets: documents that stand for what a model shall be good at, never trained on.

    probe = ProbeSet(SourceConfig("path", "questions", "questions.jsonl"))
    loader = make_loader(sources, tokenizer, 512, 8, held_out=hold_out([probe], drop=True))

A loader with them refuses or passes over their documents wherever it reads one (held_out.py), so a probe is
held out by construction and not by the care of who made the files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch

from data_handler.config import SourceConfig
from data_handler.encoding import AnswerMask, Encoder, TokenArray
from data_handler.errors import DataError, DataRequestError
from data_handler.held_out import HeldOut, PlacedText, text_hash
from data_handler.helpers import iter_placed_documents
from data_handler.mixing import MixedStream
from data_handler.packing import PackedStream, Piece, filling, pack
from data_handler.sources.opening import open_source

Batch = dict[str, torch.Tensor]


class ProbeSet:
    """The documents of a source, in the order of its files; the source's name is the set's.

    Attributes:
        documents: each with its place; of supervised records, what is said in them.
        hashes: of the documents (`held_out.text_hash`).

    Args:
        source: path (.jsonl, .jsonl.gz, .parquet, .txt), packaged or hub; texts or supervised records.

    Raises:
        DataError: the source is empty or damaged.
    """

    def __init__(self, source: SourceConfig) -> None:
        self.name = source.name
        self._source = dataclasses.replace(source, repeat=False, weight=1.0)
        self._digest = open_source(source).digest()
        self.documents = list(iter_placed_documents(self._source))
        self.hashes = frozenset(text_hash(document.text) for document in self.documents)

    def refuse_overlap(self, documents: Iterable[PlacedText]) -> None:
        """Reads training documents through, e.g. `iter_placed_documents(source)`.

        Raises: HeldOutError naming the first that is one of the set, and both places.
        """
        held_out = hold_out([self])
        for document in documents:
            held_out.check(document)

    def batches(
        self, tokenizer: Any, seq_len_tokens: int, batch_size: int, *, one_document_a_row: bool = False
    ) -> Iterator[Batch]:
        """As a loader's: input_ids, labels, position_ids, source_ids, int64 [batch_size or less, length].

        Args:
            one_document_a_row: the first tokens of each document, then filling without labels, in a row of
                its own; else the documents are packed one after the other.

        Raises:
            DataError: the files have changed since the set was made, a record has more tokens than a
                sequence, or the tokenizer's template refuses it.
        """
        _check_sizes(seq_len_tokens, batch_size)
        if open_source(self._source).digest() != self._digest:
            raise DataError(
                f"the files of the probe set {self.name!r} have changed since it was read, and what is new "
                "in them is not held out: make the set anew, and the loader with it"
            )
        documents = MixedStream(
            [self._source], tokenizer, block_documents=1, max_example_tokens=seq_len_tokens
        )
        if one_document_a_row:
            contents = ((document.tokens, document.answers) for document in documents)
            return _rows(contents, seq_len_tokens, batch_size, documents.encoder.eos_token_id)
        return map(_of_a_loader, PackedStream(documents, seq_len_tokens, batch_size))


def hold_out(probes: Iterable[ProbeSet], drop: bool = False) -> HeldOut:
    """What keeps the documents of the sets out of a loader.

    Args:
        drop: pass over such documents; False: the first one ends the run.

    Raises:
        DataRequestError: two sets have one name.
    """
    probes = list(probes)
    names = [probe.name for probe in probes]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise DataRequestError(f"names of probe sets must differ; used more than once: {sorted(doubled)}")
    return HeldOut({probe.name: probe.documents for probe in probes}, drop)


def document_batches(
    texts: Iterable[str], tokenizer: Any, seq_len_tokens: int, batch_size: int
) -> Iterator[Batch]:
    """Each text in a row of its own, as `ProbeSet.batches` does with `one_document_a_row`.

    Raises: DataRequestError for sizes that cannot be; DataError for a tokenizer that is not a fast one.
    """
    _check_sizes(seq_len_tokens, batch_size)
    encoder = Encoder(tokenizer)
    contents = ((tokens, None) for text in texts for tokens in encoder.encode([text]))
    return _rows(contents, seq_len_tokens, batch_size, encoder.eos_token_id)


def _rows(
    contents: Iterator[tuple[TokenArray, AnswerMask | None]],
    seq_len_tokens: int,
    batch_size: int,
    fill_token_id: int,
) -> Iterator[Batch]:
    while part := list(islice(contents, batch_size)):
        pieces = []
        for tokens, answers in part:
            piece = Piece(tokens[:seq_len_tokens], None if answers is None else answers[:seq_len_tokens])
            pieces += [piece, filling(seq_len_tokens - len(piece.tokens), fill_token_id)]
        yield _of_a_loader(
            pack([piece for piece in pieces if len(piece.tokens)], seq_len_tokens, fill_token_id)
        )


def _of_a_loader(batch: Batch) -> Batch:
    return {name: values for name, values in batch.items() if name != "document_ids"}


def _check_sizes(seq_len_tokens: int, batch_size: int) -> None:
    for name, value, least in (("seq_len_tokens", seq_len_tokens, 2), ("batch_size", batch_size, 1)):
        if value < least:
            raise DataRequestError(f"{name} is {value}; it is at least {least}")
