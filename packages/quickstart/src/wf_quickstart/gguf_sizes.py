"""How the bytes of a GGUF file divide between embeddings and the rest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wf_formats.families.block import GGUF_EMBEDDING, GGUF_HEAD
from wf_formats.gguf import GgufError, open_gguf
from wf_quickstart.errors import QuickstartError


@dataclass(frozen=True)
class GgufSizes:
    """Bytes of the file and of its embeddings (and head); numbers of elements of all tensors."""

    total: int
    embeddings: int
    num_weights: int
    num_embedding_weights: int


def gguf_sizes(path: Path) -> GgufSizes:
    """Raises: QuickstartError if it is not a GGUF file, or has embeddings of an unknown type."""
    try:
        tensors = open_gguf(path).tensors.values()
        embeddings = [tensor for tensor in tensors if tensor.name in (GGUF_EMBEDDING, GGUF_HEAD)]
        return GgufSizes(
            total=path.stat().st_size,
            embeddings=sum(tensor.num_bytes for tensor in embeddings),
            num_weights=sum(tensor.num_weights for tensor in tensors),
            num_embedding_weights=sum(tensor.num_weights for tensor in embeddings),
        )
    except GgufError as error:
        raise QuickstartError(str(error)) from error
