"""What a tokenizer can become, by the very rules of those who write and read it.

Of configurations `wf_formats.families.support` says the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from wf_formats.chat_template import ChatTemplate, ChatTemplateError
from wf_formats.tokenizer.files import read_files
from wf_formats.tokenizer.folder import read_folder_tokenizer
from wf_formats.tokenizer.source import TokenizerError
from wf_formats.tokenizer.to_gguf import gguf_tokenizer


def tokenizer_support(folder: Path, num_rows: int) -> dict[str, str | None]:
    """For each target of `families.support.TARGETS` None where it works, else the reason.

    Args:
        folder: with the tokenizer's files. A Hugging Face export keeps them as they are.
        num_rows: of the embedding matrix.
    """
    gguf = _reason(folder, lambda: gguf_tokenizer(folder, num_rows))
    native = _reason(folder, lambda: _check_native(folder))
    return {"gguf": gguf, "hf": None, "native": native, "llamacpp": gguf}


def template_fault(folder: Path) -> str | None:
    """Why the native engine will not take a folder's chat template (the files that it stands in may be
    missing or damaged); None where it will, or there is none."""

    def check() -> None:
        files = read_files(folder)
        _check_template(files.chat_template, files.special_tokens)

    return _reason(folder, check)


def _check_native(folder: Path) -> None:
    source = read_folder_tokenizer(folder)
    _check_template(source.chat_template, source.special_tokens)


def _check_template(template: str | None, special_tokens: Mapping[str, str]) -> None:
    """As the engine opens it: compiled, and tried on a conversation, within its limits."""
    if template is not None:
        ChatTemplate(template, special_tokens)


def _reason(folder: Path, check: Callable[[], object]) -> str | None:
    try:
        check()
    except (TokenizerError, ChatTemplateError) as error:
        return str(error).replace(f"{folder}/", "")
    return None
