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
from wf_formats.diffusion import MASK_TOKEN
from wf_formats.tokenizer.mask import backend_without

TokenArray = npt.NDArray[np.int32]
AnswerMask = npt.NDArray[np.bool_]
PlaceArray = npt.NDArray[np.int64]
_BATCH_DOCUMENTS = 64
_BATCH_CHARACTERS = 128 * 1024


class EncodedDocument(NamedTuple):
    """answers: which tokens are learned; None: all."""

    tokens: TokenArray
    before: Position
    after: Position
    answers: AnswerMask | None = None


def _has_our_mask(tokenizer: Any, backend: Any) -> bool:
    """Whether it is a block-diffusion model's; an autoregressive model may have a mask token of that name, as
    a rule with others added behind it."""
    if getattr(tokenizer, "mask_token", None) != MASK_TOKEN:
        return False
    return bool(max(backend.get_added_tokens_decoder()) == tokenizer.mask_token_id)


class Encoder:
    """Wraps the Rust backend of a transformers tokenizer.

    Special tokens that the tokenizer puts around a text (Llama 3: begin of text) are kept. No text becomes
    the mask token of a block-diffusion model, whatever it spells; that is MASK_TOKEN, added last.

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
        self.tokenizer = tokenizer
        if _has_our_mask(tokenizer, backend):
            self._backend = backend_without(backend, tokenizer.mask_token_id)
        else:
            self._backend = backend
        added = backend.get_added_tokens_decoder()
        special = {index for index, token in added.items() if token.special}
        self.special_ids = sorted(special | {tokenizer.eos_token_id})
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

    def encode_with_places(self, text: str) -> tuple[TokenArray, PlaceArray, PlaceArray]:
        """int32 [tokens] of a text that has its special tokens in it, and where each begins and ends."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        places = np.array(encoding.offsets, np.int64).reshape(-1, 2)
        return np.array(encoding.ids, np.int32), places[:, 0], places[:, 1]

    def stream(self, documents: Iterable[Document]) -> Iterator[EncodedDocument]:
        """Encodes ahead in batches; the order and the tokens do not depend on the batches."""
        for batch in _batches(documents):
            arrays = self.encode([document.content for document in batch])
            for document, tokens in zip(batch, arrays, strict=True):
                yield EncodedDocument(tokens, document.before, document.after)


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.content)
        if len(batch) == _BATCH_DOCUMENTS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
