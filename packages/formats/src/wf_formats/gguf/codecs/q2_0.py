"""Q2_0: 64 weights in 18 bytes: fp16 d, 16 bytes: weight j is byte j / 4, bits 2 (j mod 4); value d (q - 1).

The layout was confirmed against llama.cpp by log-probs; gguf-py does not know the type.
"""

from __future__ import annotations

import numpy as np

from wf_formats.gguf.codecs.base import Codec, ExportType, half, half_bytes
from wf_formats.gguf.types import TensorType
from wf_formats.packed_codes import pack_inputs, unpack_inputs


def _decode(blocks: np.ndarray, codes: np.ndarray, scales: np.ndarray) -> None:
    codes[:] = unpack_inputs(blocks[:, 2:])
    scales[:] = half(blocks)


def _encode(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return np.hstack([half_bytes(scales), pack_inputs(codes)])


Q2_0 = Codec(
    TensorType.Q2_0,
    group=64,
    decode=_decode,
    export=ExportType(_encode, file_type=41, activations=TensorType.Q8_0),
)
