"""The tokenizer of a Hugging Face folder: tokenizer.json and what stands beside it; byte-level only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders

from wrinklefree_inference.native.tokenizer_source import TokenizerError, TokenizerSource


def read_folder_tokenizer(folder: Path) -> TokenizerSource:
    """The tokenizer of a Hugging Face folder.

    Raises:
        TokenizerError: a file is missing or damaged, or it is not byte-level.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise TokenizerError(f"{path} is missing: the native engine needs the fast tokenizer's file")
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing more specific
        raise TokenizerError(f"{path} is damaged: {error}") from error
    if not isinstance(backend.decoder, decoders.ByteLevel):
        raise TokenizerError(
            f"{path}: its decoder is {backend.decoder!r}; only byte-level tokenizers are supported"
        )
    backend.no_truncation()
    backend.no_padding()
    config = _optional_json(folder / "tokenizer_config.json")
    _add_tokens(backend, config)
    special = {
        key: content
        for key in (
            "bos_token",
            "eos_token",
            "unk_token",
            "sep_token",
            "pad_token",
            "cls_token",
            "mask_token",
        )
        if (content := _content(config.get(key))) is not None
    }
    return TokenizerSource(
        backend, special, _folder_eos_ids(folder, backend, special), _template(folder, config)
    )


def _optional_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        contents = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is damaged: {error}") from error
    if not isinstance(contents, dict):
        raise TokenizerError(f"{path} holds a JSON {type(contents).__name__}, not an object")
    return contents


def _content(token: Any) -> str | None:
    """A token's text: plain, or as transformers writes AddedToken."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _add_tokens(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    """Tokens that only tokenizer_config.json has."""
    listed = config.get("added_tokens_decoder")
    for key, entry in listed.items() if isinstance(listed, dict) else ():
        content = _content(entry)
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


def _folder_eos_ids(
    folder: Path, backend: tokenizers.Tokenizer, special: Mapping[str, str]
) -> frozenset[int]:
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        stated = _optional_json(folder / name).get("eos_token_id")
        found.update(
            value for value in (stated if isinstance(stated, list) else [stated]) if type(value) is int
        )
        if found:
            break
    eos = backend.token_to_id(special["eos_token"]) if "eos_token" in special else None
    return frozenset(found if eos is None else {*found, eos})


def _template(folder: Path, config: Mapping[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise TokenizerError(f"{path} is no UTF-8: {error.reason}") from error
    template = config.get("chat_template")
    if isinstance(template, list):  # several named ones: [{"name": ..., "template": ...}]
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None
