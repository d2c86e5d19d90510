"""Checkpoint -> Hugging Face folder in the `pack-quantized` format of compressed-tensors: W2A8, or W4A16.

For stock vLLM, and for transformers with the package compressed-tensors; nothing of ours is needed to load
it. A ternary linear [out, in] of a stock class without SubLN becomes

    <name>.weight_packed  int32 [out, in / 16]  level q + 2 of input 16 c + i at bits 2 i of word [r, c]
    <name>.weight_scale   fp32  [out, in / g]   of groups of g inputs; [out, 1], all equal, where one scale
                                                covers the matrix (strategy `channel`)
    <name>.weight_shape   int64 [2]             out, in

With 4 bits (W4A16, what AWQ makes) words have 8 codes, q + 8 of input 8 c + i at bits 4 i, activations stay
as they are, and zero points z are

    <name>.weight_zero_point  int32 [out / 8, in / g]  z + 8 of row 8 r + i at bits 4 i of word [r, c]

Codes and scales are those of training, to the bit. Activations of ternary models are int8 with a scale for
each token, chosen while it runs. Embeddings, head, norms and biases are plain tensors. transformers unpacks
the weights to floats at the first use, so that there the folder is a proof and no gain in speed; those with
zero points it does not load (decompressed.py).

What a runtime makes of "int8 for each token" is its own: training and our engine divide by max / 127,
compressed-tensors (0.20, `calculate_qparams`) by max / 127.5 and cuts 127.5 off at 127, which reference.py
imitates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wf_converter.checkpoint import ConvertedCheckpoint
from wf_formats.models.hf_compressed import COMPRESSED_FORMAT, quantization_config
from wf_formats.packed_codes import pack_nibbles, pack_words
from wf_formats.schemes import COMPRESSED_METHOD

__all__ = ["COMPRESSED_FORMAT", "CompressedLayout"]


@dataclass(frozen=True)
class CompressedLayout:
    """A `Layout`."""

    checkpoint: ConvertedCheckpoint
    name = COMPRESSED_METHOD

    def quantization(self) -> dict[str, Any]:
        return quantization_config(self.checkpoint.scheme)

    def tensors(self, name: str) -> dict[str, Tensor]:
        matrix = self.checkpoint.matrix(name)
        rows = matrix.shape[0]
        scales = matrix.scales if matrix.scales.ndim else np.full((rows, 1), matrix.scales)
        pack = pack_words if self.checkpoint.int4 is None else pack_nibbles
        tensors = {
            f"{name}_packed": torch.from_numpy(pack(matrix.codes)),
            f"{name}_scale": torch.from_numpy(scales),
            f"{name}_shape": torch.tensor(matrix.shape),
        }
        if matrix.offsets is not None:
            zeros = np.rint(-matrix.offsets / scales).astype(np.int8)
            assert np.array_equal(-scales * zeros, matrix.offsets), name
            words = np.ascontiguousarray(pack_nibbles(zeros.T).T)
            tensors[f"{name}_zero_point"] = torch.from_numpy(words)
        return tensors
