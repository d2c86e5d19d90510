"""A BPE tokenizer's JSON as lists, of which the library makes a tokenizer in half the time of its own JSON.

There it tries what each part could be; lists of texts go straight into its model's constructor. One JSON
object, of parts of tokenizer.json:

    rest            tokenizer.json without the model's tokens and merges, and without added tokens
    tokens, ids     of the model, one for one
    firsts, seconds of the merges, one for one
    added_tokens    as they are

Other models (Unigram, WordPiece, WordLevel) stay as they are.
"""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

import tokenizers
from tokenizers import models

from wf_formats.tokenizer.spec import merge_pairs

_OPTIONS = (
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "fuse_unk",
    "byte_fallback",
    "ignore_merges",
)
"""Of `models.BPE`, which has its own defaults where JSON has null."""


def lists_of(spec: str) -> bytes:
    """The lists of the library's JSON, or that JSON. Raises: TokenizerError."""
    found = json.loads(spec)
    model = found["model"]
    if model["type"] != "BPE":
        return spec.encode()
    firsts, seconds = zip(*merge_pairs(model), strict=True) if model["merges"] else ((), ())
    lists = {
        "rest": found | {"model": model | {"vocab": {}, "merges": []}, "added_tokens": []},
        "tokens": list(model["vocab"]),
        "ids": list(model["vocab"].values()),
        "firsts": firsts,
        "seconds": seconds,
        "added_tokens": found["added_tokens"],
    }
    return json.dumps(lists, ensure_ascii=False, separators=(",", ":")).encode()


def backend_of(data: bytes) -> Any:
    """The library's tokenizer of `lists_of`; damaged ones raise what the library and Python raise."""
    found = json.loads(data)
    if "rest" not in found:
        return tokenizers.Tokenizer.from_buffer(data)
    rest = found["rest"]
    backend = tokenizers.Tokenizer.from_str(json.dumps(rest))
    backend.model = models.BPE(
        dict(zip(found["tokens"], found["ids"], strict=True)),
        list(zip(found["firsts"], found["seconds"], strict=True)),
        **{name: rest["model"][name] for name in _OPTIONS if rest["model"][name] is not None},
    )
    for is_special, entries in groupby(found["added_tokens"], key=lambda entry: bool(entry["special"])):
        added = [tokenizers.AddedToken(**{k: v for k, v in entry.items() if k != "id"}) for entry in entries]
        (backend.add_special_tokens if is_special else backend.add_tokens)(added)
    return backend
