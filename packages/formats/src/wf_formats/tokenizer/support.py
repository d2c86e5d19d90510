"""What a tokenizer can become, by the very rules of those who write and read it.

Of configurations `wf_formats.families.support` says the same.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
    native = _reason(folder, lambda: read_folder_tokenizer(folder))
    return {"gguf": gguf, "hf": None, "native": native, "llamacpp": gguf}


def _reason(folder: Path, check: Callable[[], object]) -> str | None:
    try:
        check()
    except TokenizerError as error:
        return str(error).replace(f"{folder}/", "")
    return None
