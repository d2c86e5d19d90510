"""Tokens that tokenizer_config.json adds to those of tokenizer.json (`added_tokens_decoder`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import AddedToken

from wf_formats.tokenizer.source import TokenizerError

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def content_of(token: Any) -> str | None:
    """A token's text: plain, or as transformers writes AddedToken."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def add_config_tokens(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    """Adds the tokens that only tokenizer_config.json has.

    Raises:
        TokenizerError: an entry is none, or its id is another token's or leaves a gap.
    """
    listed = config.get("added_tokens_decoder") or {}
    if not isinstance(listed, dict):
        raise TokenizerError(f"tokenizer_config.json: added_tokens_decoder is {listed!r:.60}, not an object")
    for key, entry in sorted(listed.items(), key=lambda item: (len(item[0]), item[0])):
        if not (key.isdecimal() and isinstance(entry, dict) and (content := content_of(entry))):
            raise TokenizerError(
                f"tokenizer_config.json: added_tokens_decoder has the entry {key!r:.60}: {entry!r:.60}, not "
                "an id and its token"
            )
        _add(backend, key, content, entry)


def _add(backend: tokenizers.Tokenizer, key: str, content: str, entry: Mapping[str, Any]) -> None:
    if str(backend.token_to_id(content)) == key:
        return
    flags = {name: bool(entry.get(name)) for name in _FLAGS}
    backend.add_tokens([AddedToken(content, **flags)])
    if str(backend.token_to_id(content)) != key:
        raise TokenizerError(f"tokenizer_config.json gives {content!r} the id {key}, which is not free")
