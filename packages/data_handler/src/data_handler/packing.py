"""Packing: documents laid end to end and cut into full sequences, boundaries kept.

    input_ids     a0 a1 a2 </s> b0 b1 </s> c0 | c1 c2 </s> ...
    position_ids   0  1  2  3    0  1  2    0 |  0  1  2
    labels         .  a1 a2 </s> .  b1 </s> . |  .  c2 </s>       (. is -100)
    source_ids     1  1  1  1    0  0  0    1 |  1  1  1          (b is of the first source)

Labels are aligned the Hugging Face way: `labels[t]` is `input_ids[t]`, and the model compares it
with its prediction at t - 1 (it shifts inside). The first token of a document in a sequence has
-100, since what comes before it belongs to another document. A document that is cut goes on in the
next sequence as if it started there. So `model(input_ids, position_ids, labels=labels).loss` is
right as it stands; do not shift again.

Every token of every document is in exactly one sequence. Supervised records (examples.py) have labels at
their answers alone, and are not cut: one that does not fit into what is left of a sequence begins the next,
and the rest is filled. When all sources end (repeat=False), the
last sequence is filled up with eos tokens whose labels are -100, and the last batch may be smaller.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from data_handler.config import SourceConfig
from data_handler.encoding import AnswerMask, TokenArray
from data_handler.errors import DataRequestError
from data_handler.held_out import HeldOut
from data_handler.mixing import MixedDocument, MixedStream, check_sources
from data_handler.stream import DEFAULT_BLOCK_DOCUMENTS, Position

IGNORED_LABEL = -100
PADDING_DOCUMENT = -1
PADDING_SOURCE = -1


class Piece(NamedTuple):
    """A part of one document.

    Attributes:
        answers: which tokens are learned; None: all.
        is_filling: it is no document, but what fills a sequence up.
        source: number of its source in the order of the configuration.
    """

    tokens: TokenArray
    answers: AnswerMask | None = None
    is_filling: bool = False
    source: int = 0


def pack(pieces: Sequence[Piece], seq_len_tokens: int, fill_token_id: int) -> dict[str, torch.Tensor]:
    """Sequences of the pieces laid end to end.

    Returns:
        int64 [sequences, seq_len_tokens] each: input_ids, labels, position_ids, source_ids (number of the
        document's source) and document_ids (number of the document within its sequence); filling is -1 in
        these two.
    """
    num_tokens = sum(len(piece.tokens) for piece in pieces)
    num_sequences = -(-num_tokens // seq_len_tokens)
    if missing := num_sequences * seq_len_tokens - num_tokens:
        pieces = [*pieces, filling(missing, fill_token_id)]
    tokens = np.concatenate([piece.tokens for piece in pieces]).astype(np.int64)
    starts = np.zeros(len(tokens) + 1, bool)
    starts[np.cumsum([0, *(len(piece.tokens) for piece in pieces)])] = True
    starts = starts[:-1]
    starts[::seq_len_tokens] = True
    index = np.arange(len(tokens))
    labels = np.where(starts | ~_learned(pieces), IGNORED_LABEL, tokens)
    document_ids = np.cumsum(starts.reshape(num_sequences, seq_len_tokens), axis=1) - 1
    document_ids.reshape(-1)[_filled(pieces)] = PADDING_DOCUMENT
    flat = {
        "input_ids": tokens,
        "labels": labels,
        "position_ids": index - np.maximum.accumulate(np.where(starts, index, 0)),
        "source_ids": _sources(pieces),
        "document_ids": document_ids,
    }
    return {
        name: torch.from_numpy(values.reshape(num_sequences, seq_len_tokens)) for name, values in flat.items()
    }


def filling(num_tokens: int, fill_token_id: int) -> Piece:
    """What no document has, and nobody learns."""
    return Piece(np.full(num_tokens, fill_token_id, np.int32), np.zeros(num_tokens, bool), is_filling=True)


def _learned(pieces: Sequence[Piece]) -> AnswerMask:
    """bool [tokens]."""
    return np.concatenate([np.ones(len(p.tokens), bool) if p.answers is None else p.answers for p in pieces])


def _filled(pieces: Sequence[Piece]) -> AnswerMask:
    """bool [tokens]."""
    return np.repeat([piece.is_filling for piece in pieces], [len(piece.tokens) for piece in pieces])


def _sources(pieces: Sequence[Piece]) -> np.ndarray:
    """int64 [tokens]."""
    numbers = [PADDING_SOURCE if piece.is_filling else piece.source for piece in pieces]
    return np.repeat(np.array(numbers, np.int64), [len(piece.tokens) for piece in pieces])


class PackedStream:
    """Iterates over batches of one shard; `state_dict` is the position after the last one.

    A document that is partly in the batch is stored as its source, its position and the number of
    tokens used, and read again when resuming: the state holds no tokens.

    Args: whole_examples keeps supervised records from being cut.
    """

    def __init__(
        self, documents: MixedStream, seq_len_tokens: int, batch_size: int, whole_examples: bool = True
    ) -> None:
        self.mixture = documents
        self._whole_examples = whole_examples
        self._seq_len_tokens = seq_len_tokens
        self._batch_tokens = seq_len_tokens * batch_size
        self._numbers = {name: number for number, name in enumerate(documents.names)}
        self._open: MixedDocument | None = None
        self._used_tokens = 0

    def state_dict(self) -> dict[str, Any]:
        state = self.mixture.state_dict()
        carry = None
        if self._open is not None:
            carry = [self._open.source, self._used_tokens]
            state["positions"][self._open.source] = self._open.before.to_json()
        return {"mixture": state, "carry": carry}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.mixture.load_state_dict(state["mixture"])
        self._open, self._used_tokens = None, 0
        if state["carry"] is not None:
            source, used_tokens = state["carry"]
            place = Position.from_json(state["mixture"]["positions"][source])
            self._reopen(source, place, used_tokens)

    def _reopen(self, source: str, place: Position, used_tokens: int) -> None:
        """The document that was cut. If the data has changed and it is gone or shorter, the next one."""
        document = self.mixture.next_of(source)
        if document is not None and document.before == place and used_tokens >= len(document.tokens):
            document = self.mixture.next_of(source)
        self._open = document
        is_same = document is not None and document.before == place
        self._used_tokens = used_tokens if is_same else 0

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        documents = iter(self.mixture)
        while pieces := self._take(documents):
            yield pack(pieces, self._seq_len_tokens, self.mixture.encoder.eos_token_id)

    def _take(self, documents: Iterator[MixedDocument]) -> list[Piece]:
        """Pieces of one batch: all its tokens, or what is left at the end of the sources."""
        pieces = []
        missing = self._batch_tokens
        while missing > 0:
            if self._open is None:
                self._open, self._used_tokens = next(documents, None), 0
                if self._open is None:
                    break
            piece = self._next_piece(self._open, missing)
            pieces.append(piece)
            missing -= len(piece.tokens)
            self._used_tokens += 0 if piece.is_filling else len(piece.tokens)
            if self._used_tokens == len(self._open.tokens):
                self._open = None
        return pieces

    def _next_piece(self, document: MixedDocument, missing: int) -> Piece:
        """What comes next of a document into a batch that misses so many tokens."""
        room = (missing - 1) % self._seq_len_tokens + 1
        is_whole = self._whole_examples and document.answers is not None
        if is_whole and len(document.tokens) > room:
            return filling(room, self.mixture.encoder.eos_token_id)
        part = slice(self._used_tokens, self._used_tokens + missing)
        answers = None if document.answers is None else document.answers[part]
        return Piece(document.tokens[part], answers, source=self._numbers[document.source])


class PackedDataset(IterableDataset[dict[str, torch.Tensor]]):
    """Packed sequences of a mixture, sharded over ranks and DataLoader workers.

    Iterates over dicts of LongTensor [seq_len_tokens] (batch_size None) or [batch_size,
    seq_len_tokens]: input_ids, labels, position_ids, source_ids and, if asked for, document_ids. For an exact
    resume and weights that change use `make_loader`. `whole_examples=False` cuts supervised records, of any
    length, as texts.

    Raises:
        DataRequestError: settings that do not fit.
        DataError: while iterating, data that do not.
    """

    def __init__(
        self,
        sources: Sequence[SourceConfig],
        tokenizer: Any,
        seq_len_tokens: int,
        batch_size: int | None = None,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        block_documents: int = DEFAULT_BLOCK_DOCUMENTS,
        document_ids: bool = False,
        whole_examples: bool = True,
        held_out: HeldOut | None = None,
    ) -> None:
        super().__init__()
        check_sources(sources)
        sizes = {"seq_len_tokens": seq_len_tokens, "block_documents": block_documents}
        sizes["batch_size"] = 1 if batch_size is None else batch_size
        for name, value in sizes.items():
            if value < 1:
                raise DataRequestError(f"{name} is {value}; it is at least 1")
        if not 0 <= rank < world_size:
            raise DataRequestError(f"rank is {rank} of world_size {world_size}; ranks start at 0")
        self.sources = list(sources)
        self.tokenizer = tokenizer
        self.seq_len_tokens, self.batch_size = seq_len_tokens, batch_size
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.block_documents = block_documents
        self.document_ids = document_ids
        self.whole_examples = whole_examples
        self.held_out = held_out

    def stream(self, worker: int = 0, num_workers: int = 1) -> PackedStream:
        """The batches of one worker of this rank."""
        documents = MixedStream(
            self.sources,
            self.tokenizer,
            shard=self.rank * num_workers + worker,
            num_shards=self.world_size * num_workers,
            seed=self.seed,
            block_documents=self.block_documents,
            max_example_tokens=self.seq_len_tokens if self.whole_examples else None,
            held_out=self.held_out,
        )
        return PackedStream(documents, self.seq_len_tokens, self.batch_size or 1, self.whole_examples)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        info = get_worker_info()
        stream = self.stream(info.id, info.num_workers) if info else self.stream()
        return map(self.finish, stream)

    def finish(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The batch as this data set hands it out."""
        if not self.document_ids:
            del batch["document_ids"]
        if self.batch_size is None:
            return {name: values[0] for name, values in batch.items()}
        return batch
