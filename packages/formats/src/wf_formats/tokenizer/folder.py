"""Hugging Face folder -> tokenizer, byte-level or SentencePiece."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import tokenizers
from tokenizers import decoders

from wf_formats.tokenizer.ends import stated_eos_ids
from wf_formats.tokenizer.files import TokenizerFiles, read_files
from wf_formats.tokenizer.sentencepiece import Prefix, is_sentencepiece, prefix_of
from wf_formats.tokenizer.source import Pieces, TokenizerError, TokenizerSource


def read_folder_tokenizer(folder: Path) -> TokenizerSource:
    """The tokenizer of a Hugging Face folder.

    Raises:
        TokenizerError: a file is missing or damaged, or it is neither byte-level nor SentencePiece.
    """
    files = read_files(folder)
    backend = files.backend()
    pieces, puts_space_first = _pieces(files, backend)
    special = files.special_tokens
    eos = _eos_ids(folder, backend, special)
    return TokenizerSource(backend, special, eos, files.chat_template, pieces, puts_space_first)


def _pieces(files: TokenizerFiles, backend: tokenizers.Tokenizer) -> tuple[Pieces, bool]:
    if isinstance(backend.decoder, decoders.ByteLevel):
        return Pieces.BYTE_LEVEL, False
    if not is_sentencepiece(files.spec):
        raise TokenizerError(
            f"{files.path}: its decoder is {backend.decoder!r:.200}; only byte-level tokenizers and BPE with "
            "byte fallback (SentencePiece) are supported"
        )
    try:
        return Pieces.SENTENCEPIECE, prefix_of(files.spec) is not Prefix.NONE
    except TokenizerError as error:
        raise TokenizerError(f"{files.path}: {error}") from error


def _eos_ids(folder: Path, backend: tokenizers.Tokenizer, special: Mapping[str, str]) -> frozenset[int]:
    found = stated_eos_ids(folder)
    eos = backend.token_to_id(special["eos_token"]) if "eos_token" in special else None
    return frozenset(found if eos is None else [*found, eos])
