"""Q4_0: 32 weights in 18 bytes: fp16 d, 16 bytes: weight j low nibble, j + 16 high; value d (q - 8).

gguf-py's encoder takes d = max / -8, so that +1 and -1 do not both survive; this one takes d = scale
and codes 8 + q. The layout was confirmed against llama.cpp by log-probs.
"""

from __future__ import annotations

import numpy as np

from wf_formats.gguf.codecs.base import Codec, ExportType, half, half_bytes
from wf_formats.gguf.types import TensorType


def _decode(blocks: np.ndarray, codes: np.ndarray, scales: np.ndarray) -> None:
    levels = codes.view(np.uint8)
    np.bitwise_and(blocks[:, 2:], 15, out=levels[:, :16])
    np.right_shift(blocks[:, 2:], 4, out=levels[:, 16:])
    codes -= 8
    scales[:] = half(blocks)


def _encode(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    levels = (codes + 8).astype(np.uint8)
    packed = levels[:, :16] | levels[:, 16:] << 4
    return np.hstack([half_bytes(scales), packed])


Q4_0 = Codec(
    TensorType.Q4_0,
    group=32,
    decode=_decode,
    export=ExportType(_encode, file_type=2, activations=TensorType.Q8_0, codes=(-8, 7)),
)
