"""Hugging Face folder -> tokenizer; byte-level only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders

from wf_formats.file_names import CONFIG_FILE, GENERATION_CONFIG_FILE
from wf_formats.tokenizer.files import content_of, optional_json, read_files
from wf_formats.tokenizer.source import TokenizerError, TokenizerSource


def read_folder_tokenizer(folder: Path) -> TokenizerSource:
    """The tokenizer of a Hugging Face folder.

    Raises:
        TokenizerError: a file is missing or damaged, or it is not byte-level.
    """
    files = read_files(folder)
    backend = files.backend()
    if not isinstance(backend.decoder, decoders.ByteLevel):
        raise TokenizerError(
            f"{files.path}: its decoder is {backend.decoder!r}; only byte-level tokenizers are supported, "
            "no SentencePiece"
        )
    backend.no_truncation()
    backend.no_padding()
    _add_tokens(backend, files.config)
    special = files.special_tokens
    return TokenizerSource(backend, special, _eos_ids(folder, backend, special), files.chat_template)


def _add_tokens(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    """Tokens that only tokenizer_config.json has."""
    listed = config.get("added_tokens_decoder")
    for key, entry in listed.items() if isinstance(listed, dict) else ():
        content = content_of(entry)
        if content is None or backend.token_to_id(content) == _as_int(key):
            continue
        flags = {
            name: bool(entry.get(name))
            for name in ("single_word", "lstrip", "rstrip", "normalized", "special")
        }
        backend.add_tokens([AddedToken(content, **flags)])
        if backend.token_to_id(content) != _as_int(key):
            raise TokenizerError(f"tokenizer_config.json gives {content!r} the id {key}, which is not free")


def _as_int(text: Any) -> int | None:
    return int(text) if isinstance(text, str) and text.isdecimal() and len(text) < 10 else None


def _eos_ids(folder: Path, backend: tokenizers.Tokenizer, special: Mapping[str, str]) -> frozenset[int]:
    found: set[int] = set()
    for name in (GENERATION_CONFIG_FILE, CONFIG_FILE):
        stated = optional_json(folder / name).get("eos_token_id")
        found.update(
            value for value in (stated if isinstance(stated, list) else [stated]) if type(value) is int
        )
        if found:
            break
    eos = backend.token_to_id(special["eos_token"]) if "eos_token" in special else None
    return frozenset(found if eos is None else {*found, eos})
