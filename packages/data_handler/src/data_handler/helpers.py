"""Small reads: plain texts and a block of tokens, for calibration and perplexity."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch

from data_handler.config import SourceConfig
from data_handler.errors import DataError
from data_handler.examples import Conversation
from data_handler.held_out import PlacedText
from data_handler.packing import PackedDataset
from data_handler.readers import conversation_of
from data_handler.records import Reader, Rules
from data_handler.stream import TextStream


def iter_documents(source: SourceConfig) -> Iterator[str]:
    """The non-empty texts of a source, once, in the order of the files.

    Raises:
        DataError: the source is empty or a record is damaged.
    """
    once = dataclasses.replace(source, repeat=False)
    return (document.text for document in TextStream(once, block_documents=1))


class _PlacedReading:
    """The words of texts or records with their places; see stream.Reading."""

    def __init__(self, config: SourceConfig) -> None:
        self._format, self._rules = config.record_format, Rules.of(config)

    def read(self, reader: Reader, record: Any) -> PlacedText:
        if self._format is None:
            return PlacedText(reader.text(record), reader.place(record))
        conversation = Conversation(*conversation_of(reader, record, self._format, self._rules))
        return PlacedText(conversation.words, conversation.where)

    def words(self, read: PlacedText) -> str:
        return read.text

    def finish(self, read: PlacedText) -> PlacedText | None:
        return read if read.text else None


def iter_placed_documents(source: SourceConfig) -> Iterator[PlacedText]:
    """The non-empty texts of a source, once, in the order of the files, each with its place for messages;
    of supervised records what is said in them.

    Raises:
        DataError: the source is empty or a record is damaged.
    """
    once = dataclasses.replace(source, repeat=False)
    stream = TextStream(once, block_documents=1, reading=_PlacedReading(once))
    return (document.content for document in stream)


def token_block(
    sources: Sequence[SourceConfig],
    tokenizer: Any,
    num_tokens: int,
    seq_len_tokens: int,
    seed: int = 0,
    least_tokens: int | None = None,
) -> torch.Tensor:
    """Token ids of the mixture, cut into sequences; the same for the same arguments.

    Supervised records are cut as texts are.

    Args:
        least_tokens: what is enough where sources that do not repeat hold no more; None: num_tokens.

    Returns:
        int64 [ceil(num_tokens / seq_len_tokens), seq_len_tokens], fewer rows only with least_tokens.

    Raises:
        DataError: sources that do not repeat have too few tokens, or the ids alone are more than this
            machine's memory.
    """
    num_sequences = -(-num_tokens // seq_len_tokens)
    num_sure = num_tokens
    if least_tokens is not None and not any(source.repeat for source in sources):
        num_sure = least_tokens
    needed, there = 8 * num_sure, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise DataError(
            f"{num_sure:,} tokens of text are wanted at once, {needed / 1e9:,.0f} GB of ids on a machine "
            f"with {there / 1e9:.0f} GB: ask for fewer tokens or steps"
        )
    dataset = PackedDataset(
        sources, tokenizer, seq_len_tokens, seed=seed, document_ids=True, whole_examples=False
    )
    sequences = list(islice(dataset, num_sequences))
    full = [s["input_ids"] for s in sequences if s["document_ids"][-1] >= 0]
    least_sequences = num_sequences if least_tokens is None else -(-least_tokens // seq_len_tokens)
    if len(full) < least_sequences:
        raise DataError(
            f"the sources hold {len(full)} sequences of {seq_len_tokens} tokens, {least_sequences} are "
            "wanted: add text, set repeat, or ask for less"
        )
    return torch.stack(full)
