"""Tokens of documents, many documents a call, the end-of-text token after each."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_handler.errors import DataError
from data_handler.stream import Document, Position

TokenArray = npt.NDArray[np.int32]
_BATCH_DOCUMENTS = 64
_BATCH_CHARACTERS = 128 * 1024


class EncodedDocument(NamedTuple):
    tokens: TokenArray
    before: Position
    after: Position


class Encoder:
    """Wraps the Rust backend of a transformers tokenizer.

    Special tokens that the tokenizer puts around a text (Llama 3: begin of text) are kept.

    Raises:
        DataError: the tokenizer has no Rust backend or no eos token.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise DataError(f"{type(tokenizer).__name__} is not a fast tokenizer; load one")
        if tokenizer.eos_token_id is None:
            raise DataError(f"the tokenizer {tokenizer.name_or_path!r} has no eos_token; set one")
        if backend.truncation is not None or backend.padding is not None:
            backend = copy.deepcopy(backend)
            backend.no_truncation()
            backend.no_padding()
        self._backend = backend
        # Asking for special tokens costs about 10 % also where the template adds none.
        self._special_tokens = backend.num_special_tokens_to_add(False) > 0
        self.eos_token_id: int = tokenizer.eos_token_id

    def digest(self) -> str:
        return hashlib.sha256(self._backend.to_str().encode()).hexdigest()[:16]

    def encode(self, texts: list[str]) -> list[TokenArray]:
        """int32 [tokens] for each text, ending with the eos token."""
        eos = self.eos_token_id
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=self._special_tokens)
        ids = [encoding.ids for encoding in encodings]
        return [np.array(i if i and i[-1] == eos else [*i, eos], dtype=np.int32) for i in ids]

    def stream(self, documents: Iterable[Document]) -> Iterator[EncodedDocument]:
        """Encodes ahead in batches; the order and the tokens do not depend on the batches."""
        for batch in _batches(documents):
            arrays = self.encode([document.text for document in batch])
            for document, tokens in zip(batch, arrays, strict=True):
                yield EncodedDocument(tokens, document.before, document.after)


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if len(batch) == _BATCH_DOCUMENTS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
