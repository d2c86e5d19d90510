"""Tokenizers in both formats, byte-level BPE.

    read_tokenizer(path)          GGUF file or Hugging Face folder -> what a tokenizer is made of
    gguf_tokenizer(folder, rows)  Hugging Face folder -> the keys of a GGUF file

Splitting rules stand once (rules.py) and serve both directions. SentencePiece is refused by name.
"""

from __future__ import annotations

from pathlib import Path

from wf_formats.tokenizer.folder import read_folder_tokenizer
from wf_formats.tokenizer.from_gguf import read_gguf_tokenizer
from wf_formats.tokenizer.source import TokenizerError, TokenizerSource
from wf_formats.tokenizer.to_gguf import GgufTokenizer, gguf_tokenizer

__all__ = ["GgufTokenizer", "TokenizerError", "TokenizerSource", "gguf_tokenizer", "read_tokenizer"]


def read_tokenizer(path: Path) -> TokenizerSource:
    """The tokenizer in a GGUF file or a Hugging Face folder.

    Raises:
        TokenizerError: it is missing, damaged or not byte-level BPE.
        GgufError: the GGUF file is damaged (a ValueError, as TokenizerError is).
        OSError: the file is missing or cannot be read.
    """
    return read_folder_tokenizer(path) if path.is_dir() else read_gguf_tokenizer(path)
