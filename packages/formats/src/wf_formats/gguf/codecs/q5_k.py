"""Q5_K: 256 weights in 176 bytes: d, e and the factors s[8], t[8] as in Q4_K, 32 bytes of high bits, nibbles
as in Q4_K; value of group j of 32 weights: d s[j] q - e t[j] = d s[j] (q - 16) + (16 d s[j] - e t[j]).

Bit j of byte m of the high bits belongs to weight 32 j + m.
"""

from __future__ import annotations

import numpy as np

from wf_formats.gguf.codecs.base import Codec
from wf_formats.gguf.codecs.q4_k import decode_nibbles, decode_scales, offsets_beside
from wf_formats.gguf.types import TensorType


def _decode(blocks: np.ndarray, codes: np.ndarray, scales: np.ndarray) -> None:
    decode_nibbles(blocks[:, 48:], codes)
    high = np.unpackbits(blocks[:, 16:48, None], axis=2, bitorder="little")  # [blocks, byte, bit]
    codes.view(np.uint8)[:] |= (high << 4).transpose(0, 2, 1).reshape(codes.shape)
    codes -= 16
    decode_scales(blocks, scales)


def _offsets(blocks: np.ndarray, offsets: np.ndarray) -> None:
    offsets_beside(16, blocks, offsets)


Q5_K = Codec(TensorType.Q5_K, group=32, decode=_decode, decode_offsets=_offsets)
