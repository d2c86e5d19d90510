"""Q2_0: 64 weights in 18 bytes: fp16 d, 16 bytes: weight j is byte j / 4, bits 2 (j mod 4); value d (q - 1).

The layout was confirmed against llama.cpp by log-probs; gguf-py does not know the type.
"""

from __future__ import annotations

import numpy as np

from wf_formats.gguf.codecs.base import FOUR_CODES, Codec, ExportType, half, half_bytes
from wf_formats.gguf.types import TensorType


def _decode(blocks: np.ndarray, codes: np.ndarray, scales: np.ndarray) -> None:
    codes[:] = FOUR_CODES[blocks[:, 2:]].view(np.int8)
    scales[:] = half(blocks)


def _encode(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    levels = (codes + 1).astype(np.uint8).reshape(-1, 16, 4)
    packed = np.bitwise_or.reduce(levels << np.array([0, 2, 4, 6], np.uint8), axis=-1)
    return np.hstack([half_bytes(scales), packed])


Q2_0 = Codec(
    TensorType.Q2_0,
    group=64,
    decode=_decode,
    export=ExportType(_encode, file_type=41, activations=TensorType.Q8_0),
)
