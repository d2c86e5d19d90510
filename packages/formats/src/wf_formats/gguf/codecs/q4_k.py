"""Q4_K: 256 weights in 144 bytes: fp16 d, fp16 e, 12 bytes of 6-bit scales s[8] and t[8], nibbles q[256];
value of group j of 32 weights: d s[j] q - e t[j] = d s[j] (q - 8) + (8 d s[j] - e t[j]).

Of j < 4, s[j] and t[j] are the low six bits of bytes j and 4 + j; of j >= 4, their low four bits are the low
and the high half of byte 4 + j, the high two those of bytes j - 4 and j. Byte 32 i + m of the nibbles holds
weight 64 i + m low and 64 i + 32 + m high.
"""

from __future__ import annotations

import numpy as np

from wf_formats.gguf.codecs.base import Codec, half
from wf_formats.gguf.types import TensorType


def _factors(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """s and t, uint8 [blocks, 8]."""
    first, second, third = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    of_scales = np.hstack([first & 63, third & 15 | first >> 6 << 4])
    of_offsets = np.hstack([second & 63, third >> 4 | second >> 6 << 4])
    return of_scales, of_offsets


def decode_nibbles(packed: np.ndarray, codes: np.ndarray) -> None:
    """uint8 [blocks, 128] -> q of 4 bits into `codes` [blocks, 256]."""
    halves, levels = packed.reshape(-1, 4, 32), codes.view(np.uint8).reshape(-1, 4, 2, 32)
    np.bitwise_and(halves, 15, out=levels[:, :, 0])
    np.right_shift(halves, 4, out=levels[:, :, 1])


def decode_scales(blocks: np.ndarray, scales: np.ndarray) -> None:
    """d s into `scales` [blocks, 8]."""
    np.multiply(_factors(blocks)[0], half(blocks), out=scales)


def offsets_beside(zero: int, blocks: np.ndarray, offsets: np.ndarray) -> None:
    """zero d s - e t into `offsets` [blocks, 8]."""
    of_scales, of_offsets = _factors(blocks)
    np.multiply(zero * of_scales.astype(np.float32), half(blocks), out=offsets)
    offsets -= of_offsets * half(blocks[:, 2:])


def _decode(blocks: np.ndarray, codes: np.ndarray, scales: np.ndarray) -> None:
    decode_nibbles(blocks[:, 16:], codes)
    codes -= 8
    decode_scales(blocks, scales)


def _offsets(blocks: np.ndarray, offsets: np.ndarray) -> None:
    offsets_beside(8, blocks, offsets)


Q4_K = Codec(TensorType.Q4_K, group=32, decode=_decode, decode_offsets=_offsets)
