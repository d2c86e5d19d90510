"""Reads a GGUF file back: the hardened reader of wf_formats, its errors as this package's.

gguf-py 0.19 has a reader too, but it refuses files with a tensor type that it does not know, and Q2_0
is one. Decoders share nothing with the encoders but the layout that they state.
"""

from __future__ import annotations

from pathlib import Path

from wf_converter.errors import ExportError
from wf_formats.gguf import GgufError, GgufFile, GgufTensor, open_gguf

__all__ = ["GgufFile", "GgufTensor", "read_gguf"]


def read_gguf(path: Path | str) -> GgufFile:
    """Reads keys and tensor table; tensors are decoded on demand.

    Raises:
        ExportError: not a whole, well-formed GGUF file.
    """
    try:
        return open_gguf(path)
    except GgufError as error:
        raise ExportError(str(error)) from error
