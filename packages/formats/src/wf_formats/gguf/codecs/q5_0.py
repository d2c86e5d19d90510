"""Q5_0: 32 weights in 22 bytes: fp16 d, 4 bytes of high bits, 16 bytes: weight j low nibble, j + 16 high;
bit j of the 32 high bits belongs to weight j; value d (q - 16).
"""

from __future__ import annotations

import numpy as np

from wf_formats.gguf.codecs.base import Codec, half
from wf_formats.gguf.types import TensorType


def decode_levels(high: np.ndarray, low: np.ndarray, codes: np.ndarray) -> None:
    """uint8 [blocks, 4] of high bits and [blocks, 16] of nibbles -> q - 16 into int8 `codes` [blocks, 32]."""
    levels = codes.view(np.uint8)
    np.bitwise_and(low, 15, out=levels[:, :16])
    np.right_shift(low, 4, out=levels[:, 16:])
    levels |= np.unpackbits(high, axis=1, bitorder="little") << 4
    codes -= 16


def _decode(blocks: np.ndarray, codes: np.ndarray, scales: np.ndarray) -> None:
    decode_levels(blocks[:, 2:6], blocks[:, 6:], codes)
    scales[:] = half(blocks)


Q5_0 = Codec(TensorType.Q5_0, group=32, decode=_decode)
