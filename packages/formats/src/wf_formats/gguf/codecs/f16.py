"""F16 as a type to export in, for rows that no block fits; read as floats (blocks.floats)."""

from __future__ import annotations

import numpy as np

from wf_formats.gguf.codecs.base import Codec, ExportType
from wf_formats.gguf.types import TensorType


def _encode(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(codes.astype(np.float16) * scales).view(np.uint8)


F16 = Codec(TensorType.F16, group=1, export=ExportType(_encode, file_type=1, activations=TensorType.F16))
