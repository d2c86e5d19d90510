"""SentencePiece's kind of BPE, with byte fallback: Llama 2, TinyLlama, Mistral 7B, Phi-3, Gemma.

Text is not split into words. Spaces become U+2581, mostly one is put before a text, and neighbouring
characters are joined as long as that gives a token. What differs between the three places is the order:

    SentencePiece, llama.cpp   the pair first whose token has the highest score, leftmost of equals
    tokenizers                 the pair first that stands first in `merges`
    here                       score = - place of the token's first merge; merges = all ways to split each
                               token into two, by falling score, then by the ids of the parts

The last gives the list that transformers makes of a SentencePiece model, so such models come back as they
were. For others, whose list holds fewer ways, `to_gguf` tries the result on every token and on text.

Where the space goes (`Prefix`) llama.cpp knows two ways; for the two of Metaspace it comes close (it also
puts one before text that begins with a space, and after each special token), so the way is kept in a key
of our own, which `from_gguf` follows. Sources: SentencePiece's and llama.cpp's documentation, the models'
own tokenizer.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from wf_formats.tokenizer.source import TokenizerError

SPACE = "\u2581"
BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))
PREFIX_KEY = "wrinklefree.tokenizer.space_prefix"
"""Of a GGUF file: a `Prefix` that llama.cpp does not know."""


class Prefix(Enum):
    """Before which texts a space is put; special tokens cut a prompt into several texts."""

    NONE = "none"
    EVERY = "every"
    """Before each (normalizer Prepend; llama.cpp's add_space_prefix)."""
    UNLESS_SPACE = "unless_space"
    """Before each that does not begin with one (Metaspace, always)."""
    FIRST = "first"
    """Before the first thing of a prompt, if it is text that does not begin with one (Metaspace, first)."""

    @property
    def is_llamacpp(self) -> bool:
        """Whether llama.cpp does exactly this."""
        return self in (Prefix.NONE, Prefix.EVERY)


_SCHEMES = {"always": Prefix.UNLESS_SPACE, "first": Prefix.FIRST, "never": Prefix.NONE}
_ESCAPE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_PREPEND = {"type": "Prepend", "prepend": SPACE}
_SPLIT = {
    "type": "Split",
    "pattern": {"String": " "},
    "behavior": "MergedWithPrevious",
    "invert": False,
}
"""Gemma's; it never finds a space, as they have been replaced."""
_DECODER = [
    {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]
_STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def is_sentencepiece(spec: Mapping[str, Any]) -> bool:
    """Whether a tokenizer.json is of this kind at all (`prefix_of` says whether exactly)."""
    return spec["model"].get("type", "BPE") == "BPE" and bool(spec["model"].get("byte_fallback"))


def prefix_of(spec: Mapping[str, Any]) -> Prefix:
    """Where a checked tokenizer.json of this kind puts its space.

    Raises:
        TokenizerError: it does something else beside; the message shows what.
    """
    _check_model(spec["model"])
    prefix = _prefix(spec)
    decoder = _steps(spec.get("decoder"), "decoders")
    if decoder not in (_DECODER, [*_DECODER, _STRIP]):
        raise TokenizerError(f"its decoder {decoder} is none of SentencePiece's known ones")
    if (decoder != _DECODER) != (prefix is not Prefix.NONE):
        raise TokenizerError("a space is put before text and not taken away again, or the other way round")
    return prefix


def build(vocab: Mapping[str, int], merges: list[tuple[str, str]], unknown: str, prefix: Prefix) -> Any:
    """A tokenizer of this kind, without added tokens."""
    model = models.BPE(dict(vocab), merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    backend = tokenizers.Tokenizer(model)
    escape = normalizers.Replace(" ", SPACE)
    if prefix is Prefix.NONE:
        backend.normalizer = escape
    elif prefix is Prefix.EVERY:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), escape])
    else:
        scheme = next(name for name, its in _SCHEMES.items() if its is prefix)
        backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme=scheme, split=False)
    steps: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix is not Prefix.NONE:
        steps.append(decoders.Strip(" ", 1, 0))
    backend.decoder = decoders.Sequence(steps)
    return backend


def scores_of(merges: Iterable[tuple[str, str]]) -> dict[str, float]:
    """Token -> score, of the tokens that merges make; whole numbers, exact in float32."""
    scores: dict[str, float] = {}
    for place, (left, right) in enumerate(merges):
        scores.setdefault(left + right, -float(place))
    return scores


def merges_of(vocab: Mapping[str, int], scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """All merges that scores stand for, in the order in which they are made.

    Args:
        vocab: all tokens.
        scores: of those that may be made by merging.
    """
    order = sorted(scores, key=lambda token: (-scores[token], vocab[token]))
    return [pair for token in order for pair in splits(token, vocab)]


def splits(token: str, vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    """The ways to split a token into two tokens, by their ids."""
    cuts = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
    pairs = [(left, right) for left, right in cuts if left in vocab and right in vocab]
    return sorted(pairs, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))


def _check_model(model: Mapping[str, Any]) -> None:
    missing = [token for token in BYTE_TOKENS if token not in model["vocab"]]
    if missing:
        raise TokenizerError(f"its byte fallback lacks {len(missing)} bytes, the first is {missing[0]}")
    if model.get("unk_token") not in model["vocab"]:
        raise TokenizerError(f"its unk_token {model.get('unk_token')!r:.60} is no token of the model")
    for name in ("continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
        if model.get(name):
            raise TokenizerError(f"its model has {name} {model[name]!r:.60}, which SentencePiece has not")


def _prefix(spec: Mapping[str, Any]) -> Prefix:
    normalizer = _steps(spec.get("normalizer"), "normalizers")
    pre_tokenizer = _steps(spec.get("pre_tokenizer"), "pretokenizers")
    if normalizer == [_PREPEND, _ESCAPE] and not pre_tokenizer:
        return Prefix.EVERY
    if normalizer == [_ESCAPE] and pre_tokenizer in ([], [_SPLIT]):
        return Prefix.NONE
    if not normalizer and len(pre_tokenizer) == 1 and pre_tokenizer[0]["type"] == "Metaspace":
        step = pre_tokenizer[0]
        if step.get("replacement") == SPACE and step.get("split") is False:
            return _SCHEMES[step.get("prepend_scheme", "always")]
    raise TokenizerError(
        f"its normalizer {normalizer} with the pre-tokenizer {pre_tokenizer} is none of SentencePiece's "
        "known ones"
    )


def _steps(definition: Mapping[str, Any] | None, name: str) -> list[Mapping[str, Any]]:
    if definition is None:
        return []
    return list(definition[name]) if definition["type"] == "Sequence" else [definition]
