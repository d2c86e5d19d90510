"""GGUF files: a reader for files that nobody vouches for, and the decoders of their tensor blocks."""

from ternary_kernels.gguf.file import GgufFile, GgufTensor, open_gguf
from ternary_kernels.gguf.header import GgufError
from ternary_kernels.gguf.types import TensorType

__all__ = ["GgufError", "GgufFile", "GgufTensor", "TensorType", "open_gguf"]
