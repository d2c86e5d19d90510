"""Q6_K: 256 weights in 210 bytes: ql[128], qh[64], int8 s[16], fp16 d; value d s[j / 16] (q - 32).

For each half h of 128 weights and m = 0..31, weights 128 h + m + (0, 32, 64, 96) take their low four
bits from ql[64 h + m] low, ql[64 h + 32 + m] low, ql[64 h + m] high, ql[64 h + 32 + m] high, and their
high two from bits 0-1, 2-3, 4-5, 6-7 of qh[32 h + m].
"""

from __future__ import annotations

import numpy as np

from wf_formats.gguf.codecs.base import Codec, half
from wf_formats.gguf.types import TensorType


def _decode(blocks: np.ndarray, codes: np.ndarray, scales: np.ndarray) -> None:
    low = blocks[:, :128].reshape(-1, 2, 2, 32)  # [block, half of the weights, 64 h + 32 i + m]
    high = blocks[:, 128:192].reshape(-1, 2, 32)
    levels = codes.view(np.uint8).reshape(-1, 2, 4, 32)
    np.bitwise_and(low, 15, out=levels[:, :, :2])
    np.right_shift(low, 4, out=levels[:, :, 2:])
    for quarter in range(4):
        levels[:, :, quarter] |= (high >> 2 * quarter & 3) << 4
    codes -= 32
    np.multiply(blocks[:, 192:208].view(np.int8), half(blocks[:, 208:]), out=scales)


Q6_K = Codec(TensorType.Q6_K, group=16, decode=_decode)
