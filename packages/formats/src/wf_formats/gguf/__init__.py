"""GGUF files: a reader for files that nobody vouches for, and the codecs of their tensor blocks."""

from wf_formats.gguf.file import GgufFile, GgufTensor, open_gguf
from wf_formats.gguf.header import GgufError
from wf_formats.gguf.types import TensorType, ValueType

__all__ = ["GgufError", "GgufFile", "GgufTensor", "TensorType", "ValueType", "open_gguf"]
