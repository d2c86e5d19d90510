"""Q8_0: 32 weights in 34 bytes: fp16 d, int8 q[32]; value d q.

For ternary matrices a generous type (8.5 bits a weight), which every back end of llama.cpp multiplies fast.
"""

from __future__ import annotations

import numpy as np

from wf_formats.gguf.codecs.base import Codec, ExportType, half, half_bytes
from wf_formats.gguf.types import TensorType


def _decode(blocks: np.ndarray, codes: np.ndarray, scales: np.ndarray) -> None:
    codes[:] = blocks[:, 2:].view(np.int8)
    scales[:] = half(blocks)


def _encode(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return np.hstack([half_bytes(scales), codes.view(np.uint8)])


Q8_0 = Codec(
    TensorType.Q8_0,
    group=32,
    decode=_decode,
    export=ExportType(_encode, file_type=7, activations=TensorType.Q8_0, codes=(-128, 127)),
)
