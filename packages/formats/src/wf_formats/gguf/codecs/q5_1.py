"""Q5_1: 32 weights in 24 bytes: fp16 d, fp16 m, high bits and nibbles as in Q5_0; value
d q + m = d (q - 16) + (m + 16 d).
"""

from __future__ import annotations

import numpy as np

from wf_formats.gguf.codecs.base import Codec, half
from wf_formats.gguf.codecs.q5_0 import decode_levels
from wf_formats.gguf.types import TensorType


def _decode(blocks: np.ndarray, codes: np.ndarray, scales: np.ndarray) -> None:
    decode_levels(blocks[:, 4:8], blocks[:, 8:], codes)
    scales[:] = half(blocks)


def _offsets(blocks: np.ndarray, offsets: np.ndarray) -> None:
    offsets[:] = half(blocks[:, 2:]) + 16 * half(blocks)


Q5_1 = Codec(TensorType.Q5_1, group=32, decode=_decode, decode_offsets=_offsets)
