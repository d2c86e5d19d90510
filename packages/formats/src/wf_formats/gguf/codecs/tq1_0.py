"""TQ1_0: 256 weights in 54 bytes: 48 + 4 bytes base 3, fp16 d; value d (q - 1).

A byte b holds five trits as the fraction b / 256 in base 3; trit n is the integer part of
3 ((b 3^n) mod 256) / 256. Bytes 0-31 hold the trits of weights 32 n + m, bytes 32-47 those of
160 + 16 n + m (n = 0..4), the last four bytes those of 240 + 4 n + m (n = 0..3).
"""

from __future__ import annotations

import numpy as np

from wf_formats.gguf.codecs.base import Codec, ExportType, gguf_py_encoder, half
from wf_formats.gguf.types import TensorType


def _decode(blocks: np.ndarray, codes: np.ndarray, scales: np.ndarray) -> None:
    for first_byte, num_bytes, first_weight, num_trits in ((0, 32, 0, 5), (32, 16, 160, 5), (48, 4, 240, 4)):
        packed = blocks[:, first_byte : first_byte + num_bytes]
        for trit in range(num_trits):
            rest = packed * np.uint8(3**trit)  # mod 256
            start = first_weight + trit * num_bytes
            # The integer part of 3 rest / 256 is 0 up to 85, 1 up to 170, then 2.
            codes[:, start : start + num_bytes] = (rest > 85).view(np.int8) + (rest > 170).view(np.int8)
    codes -= 1
    scales[:] = half(blocks[:, 52:])


TQ1_0 = Codec(
    TensorType.TQ1_0,
    group=256,
    decode=_decode,
    export=ExportType(gguf_py_encoder(TensorType.TQ1_0), file_type=36, activations=TensorType.Q8_K),
)
