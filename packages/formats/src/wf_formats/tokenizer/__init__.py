"""Tokenizers in both formats, byte-level BPE and SentencePiece's.

    read_tokenizer(path)          GGUF file or Hugging Face folder -> what a tokenizer is made of
    gguf_tokenizer(folder, rows)  Hugging Face folder -> the keys of a GGUF file
    read_files(folder)            the checked tokenizer.json and what stands beside it
    token_bytes(source)           the bytes of each token

What both directions know stands once: splitting rules (rules.py), SentencePiece's kind of BPE
(sentencepiece.py). Files of a folder come in by one door (files.py), which checks them first.
"""

from __future__ import annotations

from pathlib import Path

from wf_formats.tokenizer.files import TokenizerFiles, read_files, rust_errors, rust_panics
from wf_formats.tokenizer.folder import read_folder_tokenizer
from wf_formats.tokenizer.from_gguf import read_gguf_tokenizer
from wf_formats.tokenizer.source import Pieces, TokenizerError, TokenizerSource
from wf_formats.tokenizer.to_gguf import GgufTokenizer, gguf_tokenizer
from wf_formats.tokenizer.token_bytes import token_bytes

__all__ = [
    "GgufTokenizer",
    "Pieces",
    "TokenizerError",
    "TokenizerFiles",
    "TokenizerSource",
    "gguf_tokenizer",
    "read_files",
    "read_tokenizer",
    "rust_errors",
    "rust_panics",
    "token_bytes",
]


def read_tokenizer(path: Path) -> TokenizerSource:
    """The tokenizer in a GGUF file or a Hugging Face folder.

    Raises:
        TokenizerError: it is missing, damaged or of another kind.
        GgufError: the GGUF file is damaged (a ValueError, as TokenizerError is).
        OSError: the file is missing or cannot be read.
    """
    return read_folder_tokenizer(path) if path.is_dir() else read_gguf_tokenizer(path)
