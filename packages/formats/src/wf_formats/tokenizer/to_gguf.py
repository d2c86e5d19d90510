"""Hugging Face folder -> the `tokenizer.*` keys of a GGUF file.

Byte-level BPE only (SmolLM2, Llama 3, Qwen, Mistral Nemo). llama.cpp does not read the splitting rule
from the file: `tokenizer.ggml.pre` names one that is compiled in. So the rule is recognised by its
definition in tokenizer.json, and an unknown one is refused rather than exported with a wrong name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers

from wf_formats.tokenizer.files import TokenizerFiles, read_files
from wf_formats.tokenizer.rules import rule_of
from wf_formats.tokenizer.source import GGUF_ROLES, TokenizerError, TokenType

if TYPE_CHECKING:
    from gguf import GGUFWriter


@dataclass(frozen=True)
class GgufTokenizer:
    """What llama.cpp needs to split, merge and number text as the folder's tokenizer does."""

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


def gguf_tokenizer(folder: Path, vocab_size: int) -> GgufTokenizer:
    """The keys for the tokenizer of a folder.

    Args:
        vocab_size: rows of the embedding matrix; ids without a token become unused `[PADn]`.

    Raises:
        TokenizerError: there is no tokenizer.json, or llama.cpp has no equal of it.
    """
    files = read_files(folder)
    _check_model(files.spec)
    _check_template(files)
    tokens, types = _tokens(files.spec, vocab_size)
    special_ids = _special_ids(files.special_tokens, tokens)
    add_bos, add_eos = _affixes(files.backend(), special_ids)
    return GgufTokenizer(
        pre=rule_of(files.spec).name,
        tokens=tokens,
        token_types=types,
        merges=[m if isinstance(m, str) else " ".join(m) for m in files.spec["model"]["merges"]],
        special_ids=special_ids,
        add_bos=add_bos,
        add_eos=add_eos,
        chat_template=files.chat_template,
    )


def _check_model(spec: dict[str, Any]) -> None:
    model = spec["model"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        fallback = " with byte fallback (SentencePiece)" if model.get("byte_fallback") else ""
        raise TokenizerError(
            f"tokenizer.json: a {model['type']} model{fallback} is not byte-level BPE; alternative: "
            "--format hf"
        )
    normalizer = (spec.get("normalizer") or {}).get("type")
    if normalizer not in (None, "NFC"):  # llama.cpp's qwen2 skips NFC, as every Qwen GGUF does
        raise TokenizerError(f"tokenizer.json: llama.cpp has no equal of the normalizer {normalizer}")


def _check_template(files: TokenizerFiles) -> None:
    if files.has_other_templates:
        raise TokenizerError(
            "tokenizer_config.json: chat_template holds several named templates; keep the default one"
        )


def _tokens(spec: dict[str, Any], vocab_size: int) -> tuple[list[str], list[int]]:
    tokens = [f"[PAD{i}]" for i in range(vocab_size)]
    types = [int(TokenType.UNUSED)] * vocab_size
    added = {item["id"]: item for item in spec["added_tokens"]}
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
