"""The tokenizer files of a Hugging Face folder, read once: tokenizer.json and what stands beside it.

This is the one door for them: whoever loads a tokenizer, by whatever library, reads the files here first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from wf_formats.diffusion import BlockDiffusion, read_settings
from wf_formats.file_names import CHAT_TEMPLATE_FILE, CONFIG_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from wf_formats.json_file import read_json
from wf_formats.mapping import absence
from wf_formats.tokenizer.config_tokens import add_config_tokens, content_of
from wf_formats.tokenizer.mask import spec_without
from wf_formats.tokenizer.source import TokenizerError
from wf_formats.tokenizer.spec import check_spec

SLOW_FILES = ("tokenizer.model", "spiece.model", "vocab.json", "tekken.json")
"""Tokenizers of other libraries, from which tokenizer.json can be made."""
_SPECIAL_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


@dataclass(frozen=True)
class TokenizerFiles:
    """Their contents."""

    folder: Path
    spec: dict[str, Any]
    """tokenizer.json."""
    config: dict[str, Any]
    """tokenizer_config.json; empty without one."""
    chat_template: str | None
    """chat_template.jinja, else that of tokenizer_config.json; of several named ones the default."""
    has_other_templates: bool
    """Whether tokenizer_config.json holds something else than one template."""
    mask_id: int | None = None
    """Of a block-diffusion model, which no text becomes (mask.py)."""

    @property
    def path(self) -> Path:
        return self.folder / TOKENIZER_FILE

    @property
    def special_tokens(self) -> dict[str, str]:
        """`bos_token`, `eos_token`, ... that the configuration names."""
        named = {f"{role}_token": content_of(self.config.get(f"{role}_token")) for role in _SPECIAL_ROLES}
        return {key: content for key, content in named.items() if content is not None}

    def backend(self) -> tokenizers.Tokenizer:
        """The tokenizer of both files, which neither cuts nor pads, and which has no mask token.

        Raises:
            TokenizerError: it is none, or gives added tokens other ids than the files say.
        """
        spec, config = self.spec | {"truncation": None, "padding": None}, self.config
        if self.mask_id is not None:
            spec, config = spec_without(spec, self.mask_id), _without(config, self.mask_id)
        with rust_errors(self.path):
            backend = tokenizers.Tokenizer.from_str(json.dumps(spec))
        for entry in spec.get("added_tokens") or []:
            if (found := backend.token_to_id(entry["content"])) != entry["id"]:
                raise TokenizerError(
                    f"{self.path}: added token {entry['content']!r:.60} has the id {entry['id']}, but there "
                    f"is a gap before it: the tokenizers library would number it {found}"
                )
        with rust_errors(self.folder / TOKENIZER_CONFIG_FILE):
            add_config_tokens(backend, config)
        return backend


@contextmanager
def rust_errors(what: object) -> Iterator[None]:
    """Turns whatever the tokenizers library raises, panics included, into TokenizerError.

    Args:
        what: named in the message.
    """
    try:
        with rust_panics(what):
            yield
    except TokenizerError:
        raise
    except Exception as error:  # the library raises nothing more specific
        raise TokenizerError(f"{what} is damaged: {error}") from error


@contextmanager
def rust_panics(what: object) -> Iterator[None]:
    """Turns a panic of the tokenizers library, which is no Exception, into TokenizerError."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # pyo3's; it cannot be imported
            raise
        raise TokenizerError(f"{what} makes the tokenizers library fail: {error}") from error


def read_files(folder: Path) -> TokenizerFiles:
    """Reads the tokenizer files of a folder.

    Raises:
        TokenizerError: tokenizer.json is missing, or a file is damaged, huge or asks for absurd amounts.
    """
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        raise TokenizerError(_missing(folder))
    spec = read_json(path, TokenizerError)
    config = optional_json(folder / TOKENIZER_CONFIG_FILE)
    template, has_others = _template(folder, config)
    _check_unicode(path, spec)
    _check_unicode(folder / TOKENIZER_CONFIG_FILE, [config, template])
    try:
        check_spec(spec)
    except TokenizerError as error:
        raise TokenizerError(f"{path} is damaged: {error}") from error
    return TokenizerFiles(folder, spec, config, template, has_others, _mask_id(folder))


def _mask_id(folder: Path) -> int | None:
    if not (folder / CONFIG_FILE).is_file():
        return None
    diffusion = BlockDiffusion.from_settings(read_settings(folder, TokenizerError))
    return None if diffusion is None else diffusion.mask_token_id


def _without(config: dict[str, Any], token_id: int) -> dict[str, Any]:
    listed = config.get("added_tokens_decoder")
    if not isinstance(listed, dict):
        return config
    kept = {key: entry for key, entry in listed.items() if key != str(token_id)}
    return config | {"added_tokens_decoder": kept}


def _missing(folder: Path) -> str:
    message = (
        f"{folder / TOKENIZER_FILE} {absence(folder / TOKENIZER_FILE)}: {folder} has no tokenizer.json, "
        "the fast tokenizer's file"
    )
    slow = next((name for name in SLOW_FILES if (folder / name).is_file()), None)
    if slow is None:
        return message
    return (
        f"{message}, only {slow}; make it once where transformers, sentencepiece and protobuf are installed: "
        f"transformers.AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
    )


def _check_unicode(path: Path, value: Any) -> None:
    """Half a character, which JSON can spell, is no text."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        text = error.object[max(0, error.start - 20) : error.end + 20]
        raise TokenizerError(f"{path} has half a character (a lone surrogate) in {text!r}") from error


def optional_json(path: Path) -> dict[str, Any]:
    """Contents of a file, {} without one; raises TokenizerError where it is damaged."""
    return read_json(path, TokenizerError) if path.is_file() else {}


def _template(folder: Path, config: dict[str, Any]) -> tuple[str | None, bool]:
    path = folder / CHAT_TEMPLATE_FILE
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8"), False
        except UnicodeDecodeError as error:
            raise TokenizerError(f"{path} is not UTF-8: {error.reason}") from error
    template = config.get("chat_template")
    if isinstance(template, list):  # several named ones: [{"name": ..., "template": ...}]
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        default = named.get("default")
        return default if isinstance(default, str) else None, True
    if template is None or isinstance(template, str):
        return template, False
    return None, True
