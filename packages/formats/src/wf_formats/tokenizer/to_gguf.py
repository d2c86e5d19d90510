"""Hugging Face folder -> the `tokenizer.*` keys of a GGUF file.

byte-level BPE   SmolLM, Llama 3, Qwen, Mistral Nemo, Phi-4. llama.cpp does not read the splitting rule
                 from the file: `tokenizer.ggml.pre` names one that is compiled in. So the rule is recognised
                 by its definition in tokenizer.json, and an unknown one is refused rather than exported with
                 a wrong name.
SentencePiece    Llama 2, TinyLlama, Mistral 7B, Phi-3, Gemma: scores instead of merges
                 (sentencepiece.py), tried on every token and on text before anything is written.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers

from wf_formats.tokenizer.ends import end_roles
from wf_formats.tokenizer.files import TokenizerFiles, read_files
from wf_formats.tokenizer.phi3 import is_phi3, name_for
from wf_formats.tokenizer.rules import rule_of
from wf_formats.tokenizer.sentencepiece import (
    BYTE_TOKENS,
    PREFIX_KEY,
    SPACE,
    Prefix,
    build,
    is_sentencepiece,
    merges_of,
    prefix_of,
    scores_of,
    splits,
)
from wf_formats.tokenizer.source import GGUF_ROLES, TokenizerError, TokenType
from wf_formats.tokenizer.spec import merge_pairs

if TYPE_CHECKING:
    from gguf import GGUFWriter

logger = logging.getLogger(__name__)

_UNMERGED = -1e4
"""Score of a token that no merge makes."""
_SAMPLES = (
    "The quick  brown fox, doesn't  jump; 3.14 + 2,718 = 42?!",
    "def f(x):\n\treturn x ** 2   # comment\n\n\n\nprint(f(7))\r\n",
    "naïve café — Привет, мир! 你好，世界 こんにちは 한국어 עברית العربية हिन्दी 🙂👩‍👩‍👧",
    '<html><body class="a">https://example.org/a_b?c=d&e</body></html>        \\frac{a}{b}',
)


@dataclass(frozen=True)
class GgufTokenizer:
    """What llama.cpp needs to split, merge and number text as the folder's tokenizer does."""

    model: str
    """"gpt2" (byte-level BPE) or "llama" (SentencePiece)."""
    pre: str
    tokens: list[str]
    token_types: list[int]
    merges: list[str]
    """Byte-level BPE's."""
    scores: list[float]
    """SentencePiece's, one a token."""
    special_ids: dict[str, int]
    """bos, eos, eot, eom, unk, pad -> id, where defined."""
    add_bos: bool
    add_eos: bool
    chat_template: str | None
    prefix: Prefix = Prefix.NONE
    strips: bool = False
    """Special tokens take spaces behind them away as Phi-3's do (phi3.py)."""

    def model_name(self, name: str) -> str:
        """general.name for a model of this name: llama.cpp concludes from it."""
        return name_for(name, self.strips)

    def write(self, writer: GGUFWriter) -> None:
        """Adds the keys to a GGUF file."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.token_types)
        if self.merges:
            writer.add_token_merges(self.merges)
        if self.scores:
            writer.add_token_scores(self.scores)
        for role, token_id in self.special_ids.items():
            getattr(writer, f"add_{role}_token_id")(token_id)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)
        writer.add_add_space_prefix(self.prefix is not Prefix.NONE)
        if not self.prefix.is_llamacpp:
            writer.add_string(PREFIX_KEY, self.prefix.value)
        if self.chat_template:
            writer.add_chat_template(self.chat_template)


def gguf_tokenizer(folder: Path, vocab_size: int) -> GgufTokenizer:
    """The keys for the tokenizer of a folder.

    Args:
        vocab_size: rows of the embedding matrix; ids without a token become unused `[PADn]`.

    Raises:
        TokenizerError: there is no tokenizer.json, or llama.cpp has no equal of it.
    """
    files = read_files(folder)
    _check_model(files.spec["model"])
    _check_template(files)
    tokens, types = _tokens(files.spec, vocab_size)
    if files.mask_id is not None:
        types[files.mask_id] = int(TokenType.UNUSED)  # no text becomes it
    kind = _sentencepiece if is_sentencepiece(files.spec) else _byte_level
    fields = kind(files, tokens, types)
    special_ids = _special_ids(files.special_tokens, tokens)
    special_ids |= end_roles(folder, special_ids, len(tokens))
    add_bos, add_eos = _affixes(files.backend(), special_ids)
    strips = is_phi3(files.spec.get("added_tokens") or [])
    if not strips:
        _warn_of_stripping(files.spec)
    return GgufTokenizer(
        tokens=tokens,
        special_ids=special_ids,
        add_bos=add_bos,
        add_eos=add_eos,
        chat_template=files.chat_template,
        strips=strips,
        **fields,
    )


def _check_model(model: Mapping[str, Any]) -> None:
    if (kind := model.get("type", "BPE")) != "BPE":
        raise TokenizerError(
            f"tokenizer.json: a {kind} model is not BPE, byte-level or with byte fallback; alternative: "
            "--format hf"
        )


def _byte_level(files: TokenizerFiles, _tokens: list[str], types: list[int]) -> dict[str, Any]:
    """The fields of byte-level BPE."""
    spec = files.spec
    normalizer = (spec.get("normalizer") or {}).get("type")
    if normalizer not in (None, "NFC"):  # llama.cpp's qwen2 skips NFC, as every Qwen GGUF does
        raise TokenizerError(f"tokenizer.json: llama.cpp has no equal of the normalizer {normalizer}")
    merges = [f"{left} {right}" for left, right in merge_pairs(spec["model"])]
    if not merges:
        raise TokenizerError(
            "tokenizer.json: the model has no merges, without which GGUF files cannot be loaded; "
            "alternative: --format hf"
        )
    rule = rule_of(spec)
    if rule.by_ascii_case:
        logger.warning(
            "llama.cpp splits by the rule %s as the model does only where letters are ASCII: words in other "
            "scripts can get other tokens there than in wf serve",
            rule.name,
        )
    return {"model": "gpt2", "pre": rule.name, "token_types": types, "merges": merges, "scores": []}


def _sentencepiece(files: TokenizerFiles, tokens: list[str], types: list[int]) -> dict[str, Any]:
    """The fields of SentencePiece's BPE."""
    try:
        prefix = prefix_of(files.spec)
        types = _sentencepiece_types(files.spec, types)
        scores = scores_of(merge_pairs(files.spec["model"]))
        _check_scores(files, scores, prefix)
    except TokenizerError as error:
        raise TokenizerError(f"tokenizer.json: llama.cpp has no equal of it: {error}") from error
    if not prefix.is_llamacpp:
        logger.warning(
            "llama.cpp puts a space before every text of a prompt, this tokenizer not before text that "
            "begins with one%s: such prompts get other tokens there than in wf serve",
            " or comes after a special token" if prefix is Prefix.FIRST else "",
        )
    return {
        "model": "llama",
        "pre": "default",
        "token_types": types,
        "merges": [],
        "scores": [scores.get(token, _UNMERGED) for token in tokens],
        "prefix": prefix,
    }


def _sentencepiece_types(spec: Mapping[str, Any], types: list[int]) -> list[int]:
    vocab, types = spec["model"]["vocab"], list(types)
    for token in BYTE_TOKENS:
        types[vocab[token]] = int(TokenType.BYTE)
    types[vocab[spec["model"]["unk_token"]]] = int(TokenType.UNKNOWN)
    for token, index in vocab.items():
        # Gemma's runs of spaces: merged like any token here, and only NORMAL ones are shown with spaces.
        if types[index] == TokenType.USER_DEFINED and SPACE in token:
            types[index] = int(TokenType.NORMAL)
    return types


def _check_scores(files: TokenizerFiles, scores: Mapping[str, float], prefix: Prefix) -> None:
    """Whether merging by score gives the tokens that merging by the file's list gives.

    Raises:
        TokenizerError: for a token that only scores would make, and for a text with other ids.
    """
    vocab = files.spec["model"]["vocab"]
    apart = {entry["content"] for entry in files.spec.get("added_tokens") or []} | set(BYTE_TOKENS)
    for token in vocab.keys() - scores.keys() - apart:
        for left, right in splits(token, vocab):
            raise TokenizerError(
                f"it never joins {left!r} and {right!r} to its token {token!r}, llama.cpp does"
            )
    unknown = files.spec["model"]["unk_token"]
    ours, theirs = build(vocab, merges_of(vocab, scores), unknown, prefix), files.backend()
    texts = [*_SAMPLES, *(token.replace(SPACE, " ") for token in scores)]
    encoded = (side.encode_batch_fast(texts, add_special_tokens=False) for side in (ours, theirs))
    for text, found, expected in zip(texts, *encoded, strict=True):
        if found.ids != expected.ids:
            raise TokenizerError(f"{text!r:.100} has the tokens {expected.ids} and would have {found.ids}")


def _warn_of_stripping(spec: Mapping[str, Any]) -> None:
    flags = ("lstrip", "rstrip", "single_word")
    found = [
        entry["content"] for entry in spec.get("added_tokens") or [] if any(entry.get(flag) for flag in flags)
    ]
    if found:
        logger.warning(
            "tokenizer.json: %s take the spaces around them away or want to stand alone, which GGUF cannot "
            "say: there such spaces stay text",
            ", ".join(found),
        )


def _check_template(files: TokenizerFiles) -> None:
    if files.has_other_templates:
        raise TokenizerError(
            "tokenizer_config.json: chat_template holds several named templates; keep the default one"
        )


def _tokens(spec: dict[str, Any], vocab_size: int) -> tuple[list[str], list[int]]:
    tokens = [f"[PAD{i}]" for i in range(vocab_size)]
    types = [int(TokenType.UNUSED)] * vocab_size
    added = {item["id"]: item for item in spec.get("added_tokens") or []}
    ids = {token_id: token for token, token_id in spec["model"]["vocab"].items()}
    ids |= {token_id: item["content"] for token_id, item in added.items()}
    if max(ids) >= vocab_size:
        raise TokenizerError(
            f"tokenizer.json: token {ids[max(ids)]!r} has id {max(ids)}, the embedding matrix only "
            f"{vocab_size} rows"
        )
    for token_id, token in ids.items():
        tokens[token_id] = token
        types[token_id] = int(TokenType.NORMAL)
        if item := added.get(token_id):
            types[token_id] = int(TokenType.CONTROL if item["special"] else TokenType.USER_DEFINED)
    return tokens, types


def _special_ids(special: dict[str, str], tokens: list[str]) -> dict[str, int]:
    found = {}
    for role, name in GGUF_ROLES.values():
        if name not in special:
            continue
        if special[name] not in tokens:
            raise TokenizerError(f"tokenizer_config.json: {name} {special[name]!r} is not in the vocabulary")
        found[role] = tokens.index(special[name])
    return found


def _affixes(backend: tokenizers.Tokenizer, special_ids: dict[str, int]) -> tuple[bool, bool]:
    """Whether encoding a text puts bos before and eos after it; anything else is refused."""
    plain = backend.encode("a", add_special_tokens=False).ids
    full = backend.encode("a", add_special_tokens=True).ids
    for add_bos, add_eos in ((False, False), (True, False), (False, True), (True, True)):
        head = [special_ids.get("bos", -1)] * add_bos
        tail = [special_ids.get("eos", -1)] * add_eos
        if full == head + plain + tail:
            return add_bos, add_eos
    raise TokenizerError(
        f"tokenizer.json: its post-processor turns {plain} into {full}; GGUF can only add bos and eos"
    )
