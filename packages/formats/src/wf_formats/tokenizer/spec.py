"""What a tokenizer.json may hold: checked before the Rust library sees it.

The library takes a file at its word: an id sizes tables, a repetition compiles to a program of that
length, replacements multiply, and what it did not expect ends in a panic. So its parts are checked here,
in time and memory proportional to the file's size:

    model           ids whole, different and dense; merges join tokens to tokens
    added_tokens    ids and texts different from each other and in step with the model
    steps           normalizer, pre-tokenizer, post-processor, decoder: known types, bounded numbers,
                    strings, regular expressions and growth of the text
    limits          truncation and padding that can be carried out

A part that is wrong is named. What a checked file still can do is cost time in regular expressions that
backtrack; the library gives up there by itself, and `rust_errors` (files.py) turns that into an error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from wf_formats.tokenizer.source import TokenizerError
from wf_formats.tokenizer.steps import check_steps

MAX_SPARE_IDS = 1 << 16
"""Ids that no token has, below the highest one that a token has."""
MAX_LENGTH = 1 << 24
"""Tokens to which a file may want to cut or pad."""
_MODELS = ("BPE", "Unigram", "WordPiece", "WordLevel")


def check_spec(spec: Mapping[str, Any]) -> None:
    """Raises TokenizerError where a parsed tokenizer.json is damaged or asks for absurd amounts."""
    model = spec.get("model")
    if not isinstance(model, dict):
        raise TokenizerError(f"model is {model!r:.60}, not an object")
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind not in _MODELS:
        raise TokenizerError(f"model.type is {kind!r:.60}; known are {', '.join(_MODELS)}")
    vocab = _unigram_vocab(model) if kind == "Unigram" else _vocab(model)
    added = _added_tokens(spec)
    _check_ids(vocab, added)
    if kind == "BPE":
        _check_merges(model, vocab)
    if model.get("dropout") is not None:
        raise TokenizerError(
            f"model.dropout is {model['dropout']!r:.60}: a text would get other ids each time; set it to null"
        )
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        check_steps(part, spec.get(part))
    _check_lengths(spec)


def merge_pairs(model: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The merges of a BPE model, which files write as "a b" or as ["a", "b"].

    Raises:
        TokenizerError: an entry is something else.
    """
    merges = model.get("merges")
    if not isinstance(merges, list):
        raise TokenizerError(f"model.merges is {merges!r:.60}, not a list")
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise TokenizerError(f"model.merges has the entry {merge!r:.60}, not two tokens")
        yield pair[0], pair[1]


def _vocab(model: Mapping[str, Any]) -> dict[str, int]:
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or not vocab:
        raise TokenizerError(f"model.vocab is {vocab!r:.60}, not an object of token and id")
    return vocab


def _unigram_vocab(model: Mapping[str, Any]) -> dict[str, int]:
    vocab = model.get("vocab")
    if not isinstance(vocab, list) or not vocab:
        raise TokenizerError(f"model.vocab is {vocab!r:.60}, not a list of token and score")
    for entry in vocab:
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            raise TokenizerError(f"model.vocab has the entry {entry!r:.60}, not a token and its score")
        if type(entry[1]) not in (int, float) or not math.isfinite(entry[1]):
            raise TokenizerError(f"model.vocab gives {entry[0]!r:.60} the score {entry[1]!r:.60}")
    unknown = model.get("unk_id")
    if unknown is not None and not (type(unknown) is int and 0 <= unknown < len(vocab)):
        raise TokenizerError(f"model.unk_id is {unknown!r:.60}; there are {len(vocab)} tokens")
    return {token: index for index, (token, _) in enumerate(vocab)}


def _added_tokens(spec: Mapping[str, Any]) -> dict[str, int]:
    found: dict[str, int] = {}
    entries = spec.get("added_tokens") or []
    if not isinstance(entries, list):
        raise TokenizerError(f"added_tokens is {entries!r:.60}, not a list")
    for entry in entries:
        content = entry.get("content") if isinstance(entry, dict) else None
        if not isinstance(content, str) or not content:
            raise TokenizerError(f"added_tokens has the entry {entry!r:.60}, without a text")
        if content in found:
            raise TokenizerError(f"added_tokens has {content!r:.60} twice")
        found[content] = entry.get("id")
    return found


def _check_ids(vocab: Mapping[str, int], added: Mapping[str, int]) -> None:
    limit = len(vocab) + len(added) + MAX_SPARE_IDS
    for token, index in (*vocab.items(), *added.items()):
        if type(index) is not int or not 0 <= index < limit:
            raise TokenizerError(
                f"token {token!r:.60} has the id {index!r:.60}; with {len(vocab)} + {len(added)} tokens ids "
                f"are whole numbers below {limit}"
            )
    tokens = {index: token for token, index in vocab.items()}
    if len(tokens) != len(vocab):
        first = next(token for token, index in vocab.items() if tokens[index] != token)
        raise TokenizerError(f"tokens {first!r:.60} and {tokens[vocab[first]]!r:.60} have the same id")
    for content, index in added.items():
        if tokens.setdefault(index, content) != content or vocab.get(content, index) != index:
            raise TokenizerError(
                f"added token {content!r:.60} has the id {index}, which is that of {tokens[index]!r:.60}, or "
                "another id in model.vocab"
            )


def _check_merges(model: Mapping[str, Any], vocab: Mapping[str, int]) -> None:
    prefix = model.get("continuing_subword_prefix") or ""
    if not isinstance(prefix, str):
        raise TokenizerError(f"model.continuing_subword_prefix is {prefix!r:.60}")
    for left, right in merge_pairs(model):
        joined = left + (right.removeprefix(prefix) if prefix else right)
        if not (left in vocab and right in vocab and joined in vocab):
            raise TokenizerError(
                f"model.merges joins {left!r:.60} and {right!r:.60}, which the vocabulary has not"
            )


def _check_lengths(spec: Mapping[str, Any]) -> None:
    truncation, padding = spec.get("truncation"), spec.get("padding")
    if truncation is not None:
        length, stride = (
            _get(truncation, name, default) for name, default in (("max_length", 0), ("stride", 0))
        )
        if not (_is_length(length) and type(stride) is int and 0 <= stride < length):
            raise TokenizerError(f"truncation cannot be carried out: {truncation!r:.100}")
    if padding is not None:
        strategy, multiple = _get(padding, "strategy", None), _get(padding, "pad_to_multiple_of", None)
        fixed = strategy.get("Fixed") if isinstance(strategy, dict) else None
        if not all(value is None or _is_length(value) for value in (fixed, multiple)):
            raise TokenizerError(f"padding cannot be carried out: {padding!r:.100}")


def _get(part: Any, name: str, default: Any) -> Any:
    return part.get(name, default) if isinstance(part, dict) else part


def _is_length(value: Any) -> bool:
    return type(value) is int and 0 < value <= MAX_LENGTH
