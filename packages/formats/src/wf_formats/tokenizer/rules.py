"""How text is split before bytes are merged: one table for both directions.

GGUF files name their rule (`tokenizer.ggml.pre`; llama.cpp has it compiled in), tokenizer.json contains
it. Writing recognises a rule by its definition, reading builds it from its name; all are byte-level BPE.
A further rule is one entry of RULES.

Two rules may split alike and differ in what becomes of a piece that is a token (`ignores_merges`): then
the one that merges as the tokenizer does is meant.

Sources: the models' own tokenizer.json; llama.cpp's table of pre-tokenizers; for tekken the pattern in
Mistral's tekken.json, which llama.cpp quotes; for dbrx (cl100k) and gpt-4o (o200k) the patterns of tiktoken.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, models, pre_tokenizers

from wf_formats.tokenizer.source import TokenizerError
from wf_formats.tokenizer.spec import merge_pairs

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LLAMA_3 = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_QWEN_2 = _LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CL100K = _LLAMA_3


@dataclass(frozen=True)
class SplitRule:
    """One splitting rule."""

    name: str
    """llama.cpp's, as files are written."""
    models: str
    """Where it comes from, for messages."""
    aliases: tuple[str, ...] = ()
    """Other names of the same rule in files."""
    digits: bool = False
    """Every digit is a piece, before anything else."""
    regex: str | None = None
    """Pieces; None: GPT-2's, which byte-level pre-tokenizers have built in."""
    normalizes_nfc: bool = False
    """Text is normalized first, as the models have seen it (llama.cpp leaves that out)."""
    ignores_merges: bool = False
    """A piece that is a token is not merged from its bytes."""
    by_ascii_case: bool = False
    """llama.cpp tells case by ASCII letters alone and parts words at combining marks, the models do neither:
    other scripts can get other tokens there."""

    def pre_tokenizer(self) -> pre_tokenizers.PreTokenizer:
        """As the models' own tokenizer.json has it."""
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.regex is None)
        if self.regex is not None:
            split = pre_tokenizers.Split(Regex(self.regex), behavior="isolated")
            return pre_tokenizers.Sequence([split, byte_level])
        if self.digits:
            return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
        return byte_level


RULES = (
    SplitRule("gpt-2", "plain byte-level"),
    SplitRule("smollm", "digits, byte-level", digits=True),
    SplitRule("llama-bpe", "Llama 3", aliases=("llama3", "llama-v3"), regex=_LLAMA_3, ignores_merges=True),
    SplitRule("qwen2", "Qwen", regex=_QWEN_2, normalizes_nfc=True),
    SplitRule("tekken", "Mistral Nemo", regex=_TEKKEN, ignores_merges=True, by_ascii_case=True),
    SplitRule("dbrx", "Phi-4", regex=_CL100K),
    SplitRule("gpt-4o", "Phi-4-mini", aliases=("llama4",), regex=_O200K, by_ascii_case=True),
)
_BY_NAME = {name: rule for rule in RULES for name in (rule.name, *rule.aliases)}


def rule_named(name: Any) -> SplitRule:
    """The rule that a GGUF file names; raises TokenizerError for an unknown one."""
    if not isinstance(name, str) or name not in _BY_NAME:
        raise TokenizerError(
            f"tokenizer.ggml.pre is {name!r}; known splitting rules are {', '.join(_BY_NAME)}"
        )
    return _BY_NAME[name]


def rule_of(spec: Mapping[str, Any]) -> SplitRule:
    """The rule that a parsed tokenizer.json contains.

    Raises:
        TokenizerError: llama.cpp has none that is known to be equal; the message shows the definition.
    """
    definition = spec.get("pre_tokenizer") or {}
    steps = _steps(definition)
    rules = [rule for rule in RULES if (rule.digits, rule.regex) == steps]
    if not rules:
        known = ", ".join(f"{rule.name} ({rule.models})" for rule in RULES)
        raise TokenizerError(
            "tokenizer.ggml.pre: llama.cpp has no known equal of the pre-tokenizer "
            f"{json.dumps(definition)}; known: {known}. A Hugging Face folder keeps the tokenizer as it is"
        )
    model = spec.get("model") or {}
    ignores_merges = bool(model.get("ignore_merges", False))
    for rule in rules:
        if rule.ignores_merges == ignores_merges:
            return rule
    added = {entry["content"] for entry in spec.get("added_tokens") or []}
    _check_merges_make_tokens(model, added, rules[0])
    return rules[0]


def _check_merges_make_tokens(model: Mapping[str, Any], added: Collection[str], rule: SplitRule) -> None:
    """Raises TokenizerError for a token of text that its merges do not make: then ignoring them matters."""
    merged = models.BPE(model["vocab"], list(merge_pairs(model)))
    for token in model["vocab"]:
        if token not in added and len(merged.tokenize(token)) > 1:
            raise TokenizerError(
                f"tokenizer.json: model.ignore_merges is {not rule.ignores_merges}, the rule {rule.name} of "
                f"llama.cpp has {rule.ignores_merges}, and no merges make the token {token!r:.60}; "
                "alternative: --format hf"
            )


def _steps(definition: Mapping[str, Any]) -> tuple[bool, str | None] | None:
    """(digits, regex) of a pre-tokenizer; None for any other shape."""
    *first, last = definition.get("pretokenizers") or [definition]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space", True) or len(first) > 1:
        return None
    has_own_regex = last.get("use_regex", True)
    if not first:
        return (False, None) if has_own_regex else None
    kind = first[0].get("type")
    if kind == "Digits" and first[0].get("individual_digits") and has_own_regex:
        return True, None
    if kind == "Split" and _keeps_matches(first[0]) and not has_own_regex:
        regex = (first[0].get("pattern") or {}).get("Regex")
        return None if regex is None else (False, regex)
    return None


def _keeps_matches(split: Mapping[str, Any]) -> bool:
    """Whether the pieces are the matches, in either spelling: our patterns match every character."""
    behavior = split.get("behavior")
    return behavior == "Isolated" or (behavior == "Removed" and split.get("invert") is True)
