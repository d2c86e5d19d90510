"""TQ2_0: 256 weights in 66 bytes: 64 bytes, fp16 d; value d (q - 1).

Byte 32 h + m holds at bits 2 l the code of weight 128 h + 32 l + m.
"""

from __future__ import annotations

import numpy as np

from wf_formats.gguf.codecs.base import Codec, ExportType, gguf_py_encoder, half
from wf_formats.gguf.types import TensorType


def _decode(blocks: np.ndarray, codes: np.ndarray, scales: np.ndarray) -> None:
    packed, levels = blocks[:, :64].reshape(-1, 2, 32), codes.view(np.uint8).reshape(-1, 2, 4, 32)
    for plane in range(4):
        np.right_shift(packed, 2 * plane, out=levels[:, :, plane])
    levels &= 3
    codes -= 1
    scales[:] = half(blocks[:, 64:])


TQ2_0 = Codec(
    TensorType.TQ2_0,
    group=256,
    decode=_decode,
    export=ExportType(gguf_py_encoder(TensorType.TQ2_0), file_type=37, activations=TensorType.Q8_K),
)
