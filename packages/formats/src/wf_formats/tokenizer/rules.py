"""How text is split before bytes are merged: one table for both directions.

GGUF files name their rule (`tokenizer.ggml.pre`; llama.cpp has it compiled in), tokenizer.json contains
it. Writing recognises a rule by its definition, reading builds it from its name; all are byte-level BPE.
A further rule is one entry of RULES.

Sources: the models' own tokenizer.json; llama.cpp's table of pre-tokenizers; for tekken the pattern in
Mistral's tekken.json, which llama.cpp quotes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, pre_tokenizers

from wf_formats.tokenizer.source import TokenizerError

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
    SplitRule("tekken", "Mistral Nemo", regex=_TEKKEN, ignores_merges=True),
)
_BY_NAME = {name: rule for rule in RULES for name in (rule.name, *rule.aliases)}
_BY_STEPS = {(rule.digits, rule.regex): rule for rule in RULES}


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
    if steps is None or steps not in _BY_STEPS:
        known = ", ".join(f"{rule.name} ({rule.models})" for rule in RULES)
        raise TokenizerError(
            "tokenizer.ggml.pre: llama.cpp has no known equal of the pre-tokenizer "
            f"{json.dumps(definition)}; known: {known}. A Hugging Face folder keeps the tokenizer as it is"
        )
    return _BY_STEPS[steps]


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
    if kind == "Split" and first[0].get("behavior") == "Isolated" and not has_own_regex:
        regex = (first[0].get("pattern") or {}).get("Regex")
        return None if regex is None else (False, regex)
    return None
