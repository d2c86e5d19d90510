"""I2_S of bitnet.cpp: 128 weights in 32 bytes; one fp32 scale s for the matrix; value s (q - 1).

Byte m holds weight m at bits 6-7, m + 32 at bits 4-5, m + 64 at bits 2-3, m + 96 at bits 0-1, as the
x86 kernels of bitnet.cpp read it and its published files are written; the scale is the first fp32 of a
32-byte trailer (`blocks.codes_and_scales` puts it in). A build of bitnet.cpp on ARM may have written
blocks of 64 instead; the file does not say which, so such a file loads and answers nonsense, there as
here. Only the order of x86 is written, which published models have as well; a build on ARM reads it wrongly.
Neither llama.cpp nor gguf-py knows the type. Sources: bitnet.cpp's I2_S kernels, its issues 412, 585, 598.
"""

from __future__ import annotations

import numpy as np

from wf_formats.gguf.codecs.base import Codec, ExportType
from wf_formats.gguf.types import TensorType


def _decode(blocks: np.ndarray, codes: np.ndarray, scales: np.ndarray) -> None:
    levels = codes.view(np.uint8).reshape(-1, 4, 32)
    for plane in range(4):
        np.right_shift(blocks, 6 - 2 * plane, out=levels[:, plane])
    levels &= 3
    codes -= 1


def _encode(codes: np.ndarray, _scales: np.ndarray) -> np.ndarray:
    levels = (codes + 1).astype(np.uint8).reshape(-1, 4, 32)
    shifts = np.array([6, 4, 2, 0], np.uint8)[:, None]
    packed: np.ndarray = np.bitwise_or.reduce(levels << shifts, axis=1)
    return packed


I2_S = Codec(
    TensorType.I2_S,
    group=128,
    decode=_decode,
    export=ExportType(_encode, file_type=40, activations=TensorType.I8),
)
