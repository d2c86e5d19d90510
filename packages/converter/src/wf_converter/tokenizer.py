"""Hugging Face tokenizer.json -> the `tokenizer.*` keys of a GGUF file.

Byte-level BPE only (SmolLM2, Llama 3, Qwen). llama.cpp does not read the splitting rule from the
file: `tokenizer.ggml.pre` names one that is compiled in. So the rule is recognised by its definition
in tokenizer.json, and an unknown one is refused rather than exported with a wrong name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, TokenType
from tokenizers import Tokenizer

from wf_converter.errors import ExportError

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LLAMA_3 = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
PRE_OF_REGEX = {_LLAMA_3: "llama-bpe", _LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}"): "qwen2"}
KNOWN_PRE = "gpt-2 (plain byte-level), smollm (digits, byte-level), llama-bpe (Llama 3), qwen2"


@dataclass(frozen=True)
class GgufTokenizer:
    """What llama.cpp needs to split, merge and number text as the checkpoint's tokenizer does."""

    pre: str
    tokens: list[str]
    token_types: list[int]
    merges: list[str]
    special_ids: dict[str, int]
    """bos, eos, unk, pad -> id, where defined."""
    add_bos: bool
    add_eos: bool
    chat_template: str | None

    def write(self, writer: GGUFWriter) -> None:
        """Adds the keys to a GGUF file."""
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.token_types)
        writer.add_token_merges(self.merges)
        for role, token_id in self.special_ids.items():
            getattr(writer, f"add_{role}_token_id")(token_id)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)
        writer.add_add_space_prefix(False)
        if self.chat_template:
            writer.add_chat_template(self.chat_template)


def read_tokenizer(folder: Path, vocab_size: int) -> GgufTokenizer:
    """Reads the tokenizer of a checkpoint folder.

    Args:
        vocab_size: rows of the embedding matrix; ids without a token become unused `[PADn]`.

    Raises:
        ExportError: there is no tokenizer.json, or llama.cpp has no equal of it.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ExportError(f"{folder} has no tokenizer.json; GGUF needs the fast tokenizer's file")
    spec = json.loads(path.read_text(encoding="utf-8"))
    config_path = folder / "tokenizer_config.json"
    config = json.loads(config_path.read_text(encoding="utf-8")) if config_path.is_file() else {}
    _check_model(spec)
    tokens, types = _tokens(spec, vocab_size)
    special_ids = _special_ids(config, tokens)
    add_bos, add_eos = _added_tokens(Tokenizer.from_file(str(path)), special_ids)
    return GgufTokenizer(
        pre=detect_pre(spec),
        tokens=tokens,
        token_types=types,
        merges=[m if isinstance(m, str) else " ".join(m) for m in spec["model"]["merges"]],
        special_ids=special_ids,
        add_bos=add_bos,
        add_eos=add_eos,
        chat_template=_chat_template(folder, config),
    )


def detect_pre(spec: dict[str, Any]) -> str:
    """llama.cpp's name of the pre-tokenizer in a parsed tokenizer.json.

    Raises:
        ExportError: unknown; the message shows the definition.
    """
    rule = spec.get("pre_tokenizer") or {}
    steps = rule.get("pretokenizers", [rule])
    kinds = [step.get("type") for step in steps]
    last = steps[-1]
    if kinds[-1] == "ByteLevel" and not last.get("add_prefix_space", True):
        splits = last.get("use_regex", True)
        if kinds == ["ByteLevel"] and splits:
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and splits:
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and not splits and steps[0]["behavior"] == "Isolated":
            regex = steps[0]["pattern"].get("Regex")
            if regex in PRE_OF_REGEX:
                return PRE_OF_REGEX[regex]
    raise ExportError(
        f"tokenizer.ggml.pre: llama.cpp has no known equal of the pre-tokenizer {json.dumps(rule)}; "
        f"known: {KNOWN_PRE}. The Hugging Face export (--format hf) keeps the tokenizer as it is"
    )


def _check_model(spec: dict[str, Any]) -> None:
    model = spec["model"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        fallback = " with byte fallback" if model.get("byte_fallback") else ""
        raise ExportError(
            f"tokenizer.json: a {model['type']} model{fallback} is not byte-level BPE; alternative: "
            "--format hf"
        )
    normalizer = (spec.get("normalizer") or {}).get("type")
    if normalizer not in (None, "NFC"):  # llama.cpp's qwen2 skips NFC, as every Qwen GGUF does
        raise ExportError(f"tokenizer.json: llama.cpp has no equal of the normalizer {normalizer}")


def _tokens(spec: dict[str, Any], vocab_size: int) -> tuple[list[str], list[int]]:
    tokens = [f"[PAD{i}]" for i in range(vocab_size)]
    types = [int(TokenType.UNUSED)] * vocab_size
    added = {item["id"]: item for item in spec["added_tokens"]}
    ids = {token_id: token for token, token_id in spec["model"]["vocab"].items()}
    ids |= {token_id: item["content"] for token_id, item in added.items()}
    if max(ids) >= vocab_size:
        raise ExportError(
            f"tokenizer.json: token {ids[max(ids)]!r} has id {max(ids)}, the embedding matrix only "
            f"{vocab_size} rows"
        )
    for token_id, token in ids.items():
        tokens[token_id] = token
        types[token_id] = int(TokenType.NORMAL)
        if item := added.get(token_id):
            special = TokenType.CONTROL if item["special"] else TokenType.USER_DEFINED
            types[token_id] = int(special)
    return tokens, types


def _special_ids(config: dict[str, Any], tokens: list[str]) -> dict[str, int]:
    found = {}
    for role in ("bos", "eos", "unk", "pad"):
        entry = config.get(f"{role}_token")
        content = entry.get("content") if isinstance(entry, dict) else entry
        if content is None:
            continue
        if content not in tokens:
            raise ExportError(f"tokenizer_config.json: {role}_token {content!r} is not in the vocabulary")
        found[role] = tokens.index(content)
    return found


def _added_tokens(tokenizer: Tokenizer, special_ids: dict[str, int]) -> tuple[bool, bool]:
    """Whether encoding a text puts bos before and eos after it; anything else is refused."""
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a", add_special_tokens=True).ids
    for add_bos, add_eos in ((False, False), (True, False), (False, True), (True, True)):
        head = [special_ids.get("bos", -1)] * add_bos
        tail = [special_ids.get("eos", -1)] * add_eos
        if full == head + plain + tail:
            return add_bos, add_eos
    raise ExportError(
        f"tokenizer.json: its post-processor turns {plain} into {full}; GGUF can only add bos and eos"
    )


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    template = path.read_text(encoding="utf-8") if path.is_file() else config.get("chat_template")
    if template is not None and not isinstance(template, str):
        raise ExportError(
            "tokenizer_config.json: chat_template holds several named templates; keep the default one"
        )
    return template
