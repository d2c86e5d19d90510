"""A tokenizer as arrays of bytes that are read in no time, and back.

    tokenizer/spec      JSON that the tokenizers library's tokenizer is made of (`spec_lists`)
    tokenizer/facts     JSON: what `TokenizerSource` says beside it, and the rows of the model's embedding
    tokenizer/bytes     the bytes of all tokens, by id
    tokenizer/ends      u32 of each token: where its bytes end

What was checked before a snapshot was made is not checked again: that the tokens fit the model, that the chat
template is one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, overload

import numpy as np
import tokenizers

from wf_formats.tokenizer.files import rust_errors
from wf_formats.tokenizer.source import KnownTokens, Pieces, TokenizerError, TokenizerSource
from wf_formats.tokenizer.spec_lists import backend_of, lists_of
from wf_formats.tokenizer.token_bytes import token_bytes
from wf_formats.tokenizer.vocabulary import num_model_tokens

_SPEC, _FACTS, _BYTES, _ENDS = (f"tokenizer/{part}" for part in ("spec", "facts", "bytes", "ends"))
NAMES = (_SPEC, _FACTS, _BYTES, _ENDS)
LIBRARY = f"tokenizers {tokenizers.__version__}"
"""Whose JSON it is."""


class TokenTable(Sequence[bytes]):
    """The bytes of each token, cut out of one array when they are asked for."""

    def __init__(self, data: np.ndarray, ends: np.ndarray) -> None:
        """Args:
            data: uint8, all bytes.
            ends: uint32, ascending to the size of `data`.

        Raises:
            TokenizerError: they are not.
        """
        bounds = np.concatenate([[0], ends.astype(np.int64)])
        if (np.diff(bounds) < 0).any() or bounds[-1] != data.size:
            raise TokenizerError(f"the table of tokens does not end at its {data.size} bytes")
        self._data, self._bounds = data.data, bounds.tolist()

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return bytes(self._data[self._bounds[index] : self._bounds[index + 1]])


def snapshot(source: TokenizerSource, num_rows: int) -> dict[str, np.ndarray]:
    """The arrays of a tokenizer.

    Args:
        num_rows: of the embedding, which the caller knows to fit.

    Raises:
        TokenizerError: it would not come back as it is.
    """
    table = token_bytes(source)
    spec = lists_of(source.backend.to_str())
    counts = {"fits_rows": num_rows, "num_model_tokens": num_model_tokens(source)}
    arrays = {
        _SPEC: _flat(spec),
        _FACTS: _flat(json.dumps(_facts(source) | counts).encode()),
        _BYTES: _flat(b"".join(table)),
        _ENDS: np.cumsum([len(token) for token in table], dtype=np.uint32),
    }
    _check_same(source, read_snapshot(arrays))
    return arrays


def read_snapshot(arrays: Mapping[str, np.ndarray]) -> TokenizerSource:
    """The tokenizer of a snapshot.

    Raises:
        TokenizerError: it is none.
    """
    with rust_errors("the kept tokenizer"):
        facts = json.loads(arrays[_FACTS].tobytes())
        return TokenizerSource(
            backend_of(arrays[_SPEC].tobytes()),
            {str(name): str(token) for name, token in facts["special_tokens"].items()},
            frozenset(map(int, facts["eos_ids"])),
            facts["chat_template"],
            Pieces(facts["pieces"]),
            bool(facts["puts_space_first"]),
            KnownTokens(
                TokenTable(arrays[_BYTES], arrays[_ENDS]),
                int(facts["num_model_tokens"]),
                int(facts["fits_rows"]),
            ),
        )


def _facts(source: TokenizerSource) -> dict[str, Any]:
    return {
        "special_tokens": source.special_tokens,
        "eos_ids": sorted(source.eos_ids),
        "chat_template": source.chat_template,
        "pieces": source.pieces.value,
        "puts_space_first": source.puts_space_first,
    }


def _check_same(source: TokenizerSource, again: TokenizerSource) -> None:
    """The library numbers added tokens anew: where there is a gap before one, it would get another id."""
    for what, before, after in (
        ("vocabulary", source.backend.get_vocab(), again.backend.get_vocab()),
        ("JSON", source.backend.to_str(), again.backend.to_str()),
        ("bytes", list(token_bytes(source)), list(token_bytes(again))),
        ("facts", _facts(source), _facts(again)),
    ):
        if before != after:
            raise TokenizerError(f"the tokenizers library gives back another {what} than it was given")


def _flat(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)
