"""Keys of a GGUF file -> tokenizer.

`gpt2` is byte-level BPE (SmolLM2, Llama 3, Qwen, Mistral Nemo), with the splitting rules of the models'
own tokenizer.json (rules.py); `llama` is SentencePiece's BPE (Llama 2, Mistral 7B, Phi-3, Gemma), whose
merges are made from its scores (sentencepiece.py). Two points differ from llama.cpp: where a rule says
so, text is normalized to NFC first, as Qwen's tokenizer does and its models have seen it; and the space
before text goes where the model's own tokenizer put it, if the file says.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, processors

from wf_formats.gguf import open_gguf
from wf_formats.tokenizer import phi3
from wf_formats.tokenizer.ends import END_ROLES
from wf_formats.tokenizer.rules import SplitRule, rule_named
from wf_formats.tokenizer.sentencepiece import BYTE_TOKENS, PREFIX_KEY, Prefix, build, merges_of
from wf_formats.tokenizer.source import GGUF_ROLES, Pieces, TokenizerError, TokenizerSource, TokenType

_PREFIX = "tokenizer.ggml."
_SENTENCEPIECE_IDS = {"unknown": 0, "bos": 1, "eos": 2}
"""Where a file of that kind says nothing; bos is put before text then, too."""


def read_gguf_tokenizer(path: Path) -> TokenizerSource:
    """The tokenizer in a GGUF file.

    Raises:
        TokenizerError: it is missing, damaged or of a kind or with a splitting rule that is not known.
        GgufError: the file is damaged.
    """
    keys = open_gguf(path).keys
    try:
        return _from_keys(keys)
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from error


def _from_keys(keys: Mapping[str, Any]) -> TokenizerSource:
    build = _BUILDERS.get(model) if isinstance(model := keys.get(f"{_PREFIX}model"), str) else None
    if build is None:
        raise TokenizerError(
            f"{_PREFIX}model is {model!r:.60}; supported are 'gpt2' (byte-level BPE) and 'llama' "
            "(SentencePiece): export the model with its Hugging Face tokenizer"
        )
    tokens, types = _list(keys, "tokens", str), _list(keys, "token_type", int)
    backend, pieces = build(keys, tokens, types)
    _add_tokens(backend, tokens, types, phi3.has_name(keys.get("general.name")))
    defaults = _SENTENCEPIECE_IDS if pieces is Pieces.SENTENCEPIECE else {}
    ids = {key: _id(keys, key, len(tokens), defaults.get(key)) for key in (*GGUF_ROLES, *END_ROLES)}
    special = {
        name: tokens[index] for role, (_, name) in GGUF_ROLES.items() if (index := ids[role]) is not None
    }
    _add_affixes(backend, keys, ids, tokens, {"bos"} & defaults.keys())
    eos = frozenset(index for key in END_ROLES if (index := ids[key]) is not None)
    template = keys.get("tokenizer.chat_template")
    return TokenizerSource(
        backend,
        special,
        eos,
        template if isinstance(template, str) else None,
        pieces,
        pieces is Pieces.SENTENCEPIECE and _prefix(keys) is not Prefix.NONE,
    )


def _byte_level(
    keys: Mapping[str, Any], tokens: list[str], types: list[int]
) -> tuple[tokenizers.Tokenizer, Pieces]:
    vocab = _vocab(tokens, types)
    return _byte_level_bpe(vocab, _list(keys, "merges", str), _rule(keys)), Pieces.BYTE_LEVEL


def _sentencepiece(
    keys: Mapping[str, Any], tokens: list[str], types: list[int]
) -> tuple[tokenizers.Tokenizer, Pieces]:
    vocab, scores = _vocab(tokens, types), _list(keys, "scores", float)
    if len(scores) != len(tokens):
        raise TokenizerError(f"{_PREFIX}scores has {len(scores)} entries for {len(tokens)} tokens")
    if any(math.isnan(score) for score in scores):
        raise TokenizerError(f"{_PREFIX}scores has one that is no number")
    if missing := [token for token in BYTE_TOKENS if token not in vocab]:
        raise TokenizerError(f"{_PREFIX}tokens lacks {len(missing)} bytes, the first is {missing[0]}")
    unknown = _id(keys, "unknown", len(tokens), 0)
    merged = {
        token: scores[index]
        for token, index in vocab.items()
        if types[index] in (TokenType.NORMAL, TokenType.USER_DEFINED)
    }
    backend = build(vocab, merges_of(vocab, merged), tokens[unknown or 0], _prefix(keys))
    return backend, Pieces.SENTENCEPIECE


def _prefix(keys: Mapping[str, Any]) -> Prefix:
    if keys.get(f"{_PREFIX}add_space_prefix") is False:
        return Prefix.NONE
    stated = keys.get(PREFIX_KEY, Prefix.EVERY.value)
    if stated not in (prefix.value for prefix in Prefix):
        raise TokenizerError(
            f"{PREFIX_KEY} is {stated!r:.60}; known are {', '.join(p.value for p in Prefix)}"
        )
    return Prefix(stated)


_BUILDERS = {"gpt2": _byte_level, "llama": _sentencepiece}


def _rule(keys: Mapping[str, Any]) -> SplitRule:
    return rule_named(keys.get(f"{_PREFIX}pre"))


def _vocab(tokens: list[str], types: list[int]) -> dict[str, int]:
    if len(types) != len(tokens):
        raise TokenizerError(f"{_PREFIX}token_type has {len(types)} entries for {len(tokens)} tokens")
    used = [index for index, kind in enumerate(types) if kind != TokenType.UNUSED]
    vocab = {tokens[index]: index for index in used}
    if len(vocab) != len(used):
        raise TokenizerError(f"{_PREFIX}tokens has the same token twice")
    return vocab


def _byte_level_bpe(vocab: dict[str, int], merges: list[str], rule: SplitRule) -> tokenizers.Tokenizer:
    pairs = [_pair(merge) for merge in merges]
    for left, right in pairs:
        if not (left in vocab and right in vocab and left + right in vocab):
            raise TokenizerError(
                f"{_PREFIX}merges joins {left!r} and {right!r}, which the vocabulary has not"
            )
    backend = tokenizers.Tokenizer(models.BPE(vocab, pairs, ignore_merges=rule.ignores_merges))
    backend.decoder = decoders.ByteLevel()
    if rule.normalizes_nfc:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = rule.pre_tokenizer()
    return backend


def _add_tokens(
    backend: tokenizers.Tokenizer, tokens: list[str], types: list[int], strips: bool = False
) -> None:
    adders = {
        TokenType.CONTROL: backend.add_special_tokens,
        TokenType.UNKNOWN: backend.add_special_tokens,
        TokenType.USER_DEFINED: backend.add_tokens,
    }
    for kind, add in adders.items():
        found = [token for token, its in zip(tokens, types, strict=True) if its == kind]
        special = kind is not TokenType.USER_DEFINED
        add(
            [
                AddedToken(
                    token, special=special, normalized=False, rstrip=strips and token not in phi3.KEEPING
                )
                for token in found
            ]
        )


def _add_affixes(
    backend: tokenizers.Tokenizer,
    keys: Mapping[str, Any],
    ids: Mapping[str, int | None],
    tokens: list[str],
    by_default: Container[str],
) -> None:
    """bos before and eos after a text, where the file asks for them or, saying nothing, means them."""
    template = ["$A"]
    used = {}
    for role, place in (("bos", 0), ("eos", 1)):
        if keys.get(f"{_PREFIX}add_{role}_token", role in by_default) is not True:
            continue
        index = ids[role]
        if index is None:
            raise TokenizerError(f"{_PREFIX}add_{role}_token is set without {_PREFIX}{role}_token_id")
        used[tokens[index]] = index
        template.insert(place * len(template), tokens[index])
    if used:
        backend.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=list(used.items())
        )


def _list(keys: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    values = keys.get(f"{_PREFIX}{name}")
    if not isinstance(values, list) or not all(type(value) is kind for value in values):
        raise TokenizerError(f"{_PREFIX}{name} is missing or no list of {kind.__name__}")
    return values


def _pair(merge: str) -> tuple[str, str]:
    parts = merge.split(" ")
    if len(parts) != 2:
        raise TokenizerError(f"{_PREFIX}merges has the entry {merge!r:.60}, not two tokens")
    return parts[0], parts[1]


def _id(keys: Mapping[str, Any], role: str, num_tokens: int, default: int | None = None) -> int | None:
    value = keys.get(f"{_PREFIX}{role}_token_id", default)
    if value is not None and not (type(value) is int and 0 <= value < num_tokens):
        raise TokenizerError(f"{_PREFIX}{role}_token_id is {value!r:.60}; there are {num_tokens} tokens")
    return value
