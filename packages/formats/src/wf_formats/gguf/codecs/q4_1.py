"""Q4_1: 32 weights in 20 bytes: fp16 d, fp16 m, nibbles as in Q4_0; value d q + m = d (q - 8) + (m + 8 d).

Written for codes of 4 bits with zero points.
"""

from __future__ import annotations

import numpy as np

from wf_formats.errors import FormatError
from wf_formats.gguf.codecs.base import Codec, ExportType, half, half_bytes
from wf_formats.gguf.types import TensorType


def _decode(blocks: np.ndarray, codes: np.ndarray, scales: np.ndarray) -> None:
    levels = codes.view(np.uint8)
    np.bitwise_and(blocks[:, 4:], 15, out=levels[:, :16])
    np.right_shift(blocks[:, 4:], 4, out=levels[:, 16:])
    codes -= 8
    scales[:] = half(blocks)


def _offsets(blocks: np.ndarray, offsets: np.ndarray) -> None:
    offsets[:] = half(blocks[:, 2:]) + 8 * half(blocks)


def _encode(codes: np.ndarray, scales: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    exact = offsets - 8 * scales.astype(np.float32)
    least = exact.astype(np.float16)
    if not np.array_equal(least.astype(np.float32), exact):
        wrong = exact[least.astype(np.float32) != exact].flat[0]
        raise FormatError(f"float16 does not hold {wrong:.8g}, the minimum of a group")
    levels = (codes + 8).astype(np.uint8)
    packed = levels[:, :16] | levels[:, 16:] << 4
    return np.hstack([half_bytes(scales), half_bytes(least), packed])


Q4_1 = Codec(
    TensorType.Q4_1,
    group=32,
    decode=_decode,
    decode_offsets=_offsets,
    export=ExportType(_encode, file_type=3, activations=TensorType.Q8_1, codes=(-8, 7), has_offsets=True),
)
