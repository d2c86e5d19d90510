"""The tokenizer files of a Hugging Face folder, read once: tokenizer.json and what stands beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from wf_formats.file_names import CHAT_TEMPLATE_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from wf_formats.json_file import read_json
from wf_formats.tokenizer.source import TokenizerError

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

    @property
    def path(self) -> Path:
        return self.folder / TOKENIZER_FILE

    @property
    def special_tokens(self) -> dict[str, str]:
        """`bos_token`, `eos_token`, ... that the configuration names."""
        named = {f"{role}_token": content_of(self.config.get(f"{role}_token")) for role in _SPECIAL_ROLES}
        return {key: content for key, content in named.items() if content is not None}

    def backend(self) -> tokenizers.Tokenizer:
        """The tokenizer of tokenizer.json; raises TokenizerError where it is none."""
        try:
            return tokenizers.Tokenizer.from_str(json.dumps(self.spec))
        except Exception as error:  # tokenizers raises nothing more specific
            raise TokenizerError(f"{self.path} is damaged: {error}") from error


def read_files(folder: Path) -> TokenizerFiles:
    """Reads the tokenizer files of a folder.

    Raises:
        TokenizerError: tokenizer.json is missing, or a file is damaged or huge.
    """
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        raise TokenizerError(f"{path} is missing: {folder} has no tokenizer.json, the fast tokenizer's file")
    config = optional_json(folder / TOKENIZER_CONFIG_FILE)
    template, has_others = _template(folder, config)
    return TokenizerFiles(folder, read_json(path, TokenizerError), config, template, has_others)


def optional_json(path: Path) -> dict[str, Any]:
    """Contents of a file, {} without one; raises TokenizerError where it is damaged."""
    return read_json(path, TokenizerError) if path.is_file() else {}


def content_of(token: Any) -> str | None:
    """A token's text: plain, or as transformers writes AddedToken."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


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
