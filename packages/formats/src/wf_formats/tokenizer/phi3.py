"""Phi-3's special tokens, which take the spaces behind them away.

GGUF cannot say that. llama.cpp does it where general.name has "phi-3" or "phi3" in it: then all special
tokens do so but three, and all named here must be there, or the file cannot be loaded. So a file has such a
name if and only if its tokens are these, and the readers here go by the name too.

Source: llama.cpp's set-up of vocabularies.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

_NAME = re.compile("phi-?3", re.IGNORECASE)
KEEPING = ("<unk>", "<s>", "<|endoftext|>")
"""Special tokens that leave spaces alone."""
STRIPPING = "</s>"


def has_name(name: object) -> bool:
    """Whether llama.cpp takes a model of this general.name for Phi-3."""
    return isinstance(name, str) and _NAME.search(name) is not None


def is_phi3(added: Collection[Mapping[str, Any]]) -> bool:
    """Whether added tokens, as tokenizer.json lists them, strip as llama.cpp has it."""
    names = {entry["content"] for entry in added}
    return {*KEEPING, STRIPPING} <= names and all(
        bool(entry.get("rstrip")) == (entry["content"] not in KEEPING)
        and not entry.get("lstrip")
        and not entry.get("single_word")
        for entry in added
    )


def name_for(name: str, strips: bool) -> str:
    """A model's name such that llama.cpp takes it for Phi-3 if and only if its tokens are Phi-3's."""
    if strips:
        return name if has_name(name) else f"{name} (phi-3 tokenizer)"
    return _NAME.sub("Phi 3", name)
