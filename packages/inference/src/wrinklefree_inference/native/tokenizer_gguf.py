"""The tokenizer in a GGUF file.

Byte-level BPE only (GPT-2, SmolLM2, Llama 3, Qwen). GGUF files name their splitting rule instead of
containing it; the rules here are those of the models' own tokenizer.json. One point differs from
llama.cpp: with rule `qwen2` text is normalized to NFC first, as Qwen's tokenizer does and its models
have seen it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from wf_formats.gguf import open_gguf
from wrinklefree_inference.native.tokenizer_source import TokenizerError, TokenizerSource

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LLAMA_3 = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_QWEN_2 = _LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")
_LLAMA_3_NAMES = ("llama-bpe", "llama3", "llama-v3")
PRE_TOKENIZERS = ("gpt-2", "smollm", *_LLAMA_3_NAMES, "qwen2")
_ROLES = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
_END_KEYS = ("eos", "eot", "eom")
_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5
_PREFIX = "tokenizer.ggml."


def read_gguf_tokenizer(path: Path) -> TokenizerSource:
    """The tokenizer in a GGUF file.

    Raises:
        TokenizerError: it is missing, damaged or not byte-level BPE with a known splitting rule.
        GgufError: the file is damaged.
    """
    keys = open_gguf(path).keys
    try:
        return _from_keys(keys)
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from error


def _from_keys(keys: Mapping[str, Any]) -> TokenizerSource:
    model = keys.get(f"{_PREFIX}model")
    if model != "gpt2":
        raise TokenizerError(
            f"{_PREFIX}model is {model!r}; only 'gpt2' (byte-level BPE) is supported: export the model "
            "with its Hugging Face tokenizer"
        )
    tokens, types = _list(keys, "tokens", str), _list(keys, "token_type", int)
    merges = [_pair(merge) for merge in _list(keys, "merges", str)]
    if len(types) != len(tokens):
        raise TokenizerError(f"{_PREFIX}token_type has {len(types)} entries for {len(tokens)} tokens")
    vocab = {token: index for index, token in enumerate(tokens) if types[index] != _UNUSED}
    if len(vocab) != sum(kind != _UNUSED for kind in types):
        raise TokenizerError(f"{_PREFIX}tokens has the same token twice")
    for left, right in merges:
        if not (left in vocab and right in vocab and left + right in vocab):
            raise TokenizerError(
                f"{_PREFIX}merges joins {left!r} and {right!r}, which the vocabulary has not"
            )
    backend = _byte_level_bpe(vocab, merges, keys.get(f"{_PREFIX}pre"))
    for kind, add in ((_CONTROL, backend.add_special_tokens), (_USER_DEFINED, backend.add_tokens)):
        found = [token for token, its in zip(tokens, types, strict=True) if its == kind]
        add([AddedToken(token, special=kind == _CONTROL, normalized=False) for token in found])
    ids = {key: _id(keys, key, len(tokens)) for key in (*_ROLES, *_END_KEYS)}
    special = {name: tokens[index] for role, name in _ROLES.items() if (index := ids[role]) is not None}
    _add_affixes(backend, keys, ids, tokens)
    eos = frozenset(index for key in _END_KEYS if (index := ids[key]) is not None)
    template = keys.get("tokenizer.chat_template")
    return TokenizerSource(backend, special, eos, template if isinstance(template, str) else None)


def _byte_level_bpe(vocab: dict[str, int], merges: list[tuple[str, str]], pre: Any) -> tokenizers.Tokenizer:
    if pre not in PRE_TOKENIZERS:
        raise TokenizerError(
            f"{_PREFIX}pre is {pre!r}; known splitting rules are {', '.join(PRE_TOKENIZERS)}"
        )
    backend = tokenizers.Tokenizer(models.BPE(vocab, merges, ignore_merges=pre in _LLAMA_3_NAMES))
    backend.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    if pre == "gpt-2":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        return backend
    if pre == "smollm":
        first: Any = pre_tokenizers.Digits(individual_digits=True)
    else:
        first = pre_tokenizers.Split(Regex(_QWEN_2 if pre == "qwen2" else _LLAMA_3), behavior="isolated")
    second = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre == "smollm")
    backend.pre_tokenizer = pre_tokenizers.Sequence([first, second])
    return backend


def _add_affixes(
    backend: tokenizers.Tokenizer, keys: Mapping[str, Any], ids: Mapping[str, int | None], tokens: list[str]
) -> None:
    """bos before and eos after a text, where the file asks for them."""
    template = ["$A"]
    used = {}
    for role, place in (("bos", 0), ("eos", 1)):
        if keys.get(f"{_PREFIX}add_{role}_token") is not True:
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


def _id(keys: Mapping[str, Any], role: str, num_tokens: int) -> int | None:
    value = keys.get(f"{_PREFIX}{role}_token_id")
    if value is not None and not (type(value) is int and 0 <= value < num_tokens):
        raise TokenizerError(f"{_PREFIX}{role}_token_id is {value!r:.60}; there are {num_tokens} tokens")
    return value
