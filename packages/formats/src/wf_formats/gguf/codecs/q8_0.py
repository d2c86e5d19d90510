"""Q8_0: 32 weights in 34 bytes: fp16 d, int8 q[32]; value d q."""

from __future__ import annotations

import numpy as np

from wf_formats.gguf.codecs.base import Codec, half
from wf_formats.gguf.types import TensorType


def _decode(blocks: np.ndarray, codes: np.ndarray, scales: np.ndarray) -> None:
    codes[:] = blocks[:, 2:].view(np.int8)
    scales[:] = half(blocks)


Q8_0 = Codec(TensorType.Q8_0, group=32, decode=_decode)
