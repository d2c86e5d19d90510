"""Ternary codes and scales -> the quantized blocks of GGUF tensors (read back by `wf_formats.gguf`).

A row of K weights is cut into blocks; every block stores one fp16 scale `d` and its codes. Only
types that can hold {-d, 0, +d} exactly are here (K-quants and Q8_0 cannot be proved code by code):

    type   block bytes bits/weight  bytes of a block                    value
    TQ1_0    256    54      1.6875  qs[48], qh[4] (base 3), fp16 d      (trit - 1) * d
    TQ2_0    256    66      2.0625  qs[64] (4 x 2 bits), fp16 d         (code - 1) * d
    Q2_0      64    18      2.25    fp16 d, qs[16] (4 x 2 bits)         (code - 1) * d
    Q4_0      32    18      4.5     fp16 d, qs[16] (2 x 4 bits)         (code - 8) * d
    F16        1     2     16       the value                           value

Bit order: Q2_0 puts element j into byte j // 4 at bit 2 * (j % 4); Q4_0 puts elements 0..15 into the
low and 16..31 into the high nibbles. Both layouts were confirmed against llama.cpp by log-probs.
TQ1_0 and TQ2_0 are encoded by gguf-py. gguf-py's own Q4_0 is *not* usable: it takes d = max / -8, so
that +1 and -1 do not both survive; ours takes d = scale and codes 8 + q.

Scales go to fp16 (relative error at most 2**-11); a scale that fp16 holds less exactly (subnormal or
overflow) is an error. Callers that need the exact fp32 scale store unit blocks and a `.scale` tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from gguf import quants
from gguf.constants import GGMLQuantizationType

from wf_converter.errors import ExportError

FP16_RELATIVE_ERROR = 2.0**-11


class TernaryType(StrEnum):
    """GGUF tensor types that hold ternary weights exactly; the value is the command-line name."""

    TQ1_0 = "tq1_0"
    TQ2_0 = "tq2_0"
    Q2_0 = "q2_0"
    Q4_0 = "q4_0"
    F16 = "f16"

    @property
    def layout(self) -> BlockLayout:
        return LAYOUTS[self]


@dataclass(frozen=True)
class BlockLayout:
    """Geometry of one block and the numbers that GGUF files name it by."""

    ggml_type: int
    """`enum ggml_type`."""
    file_type: int
    """`enum llama_ftype`, goes into general.file_type."""
    block: int
    """Weights in a block; rows must be a multiple of it."""
    bytes: int
    """Bytes of a block."""

    def row_bytes(self, num_columns: int) -> int:
        """Bytes of a row of `num_columns` weights."""
        return num_columns // self.block * self.bytes


LAYOUTS = {
    TernaryType.TQ1_0: BlockLayout(ggml_type=34, file_type=36, block=256, bytes=54),
    TernaryType.TQ2_0: BlockLayout(ggml_type=35, file_type=37, block=256, bytes=66),
    TernaryType.Q2_0: BlockLayout(ggml_type=42, file_type=41, block=64, bytes=18),
    TernaryType.Q4_0: BlockLayout(ggml_type=2, file_type=2, block=32, bytes=18),
    TernaryType.F16: BlockLayout(ggml_type=1, file_type=1, block=1, bytes=2),
}


def encode(codes: np.ndarray, scales: np.ndarray, kind: TernaryType) -> np.ndarray:
    """Blocks of a ternary matrix.

    Args:
        codes: int8 [out, in] in {-1, 0, 1}.
        scales: fp32 [] (whole tensor) or [out, in / group].
        kind: the block type.

    Returns:
        uint8 [out, row bytes].

    Raises:
        ExportError: K is no multiple of the block, a block would need two scales, or fp16 cannot
            hold a scale within 2**-11.
    """
    rows, columns = codes.shape
    block = kind.layout.block
    if columns % block:
        raise ExportError(f"rows of {columns} weights are no multiple of the {block} of {kind}")
    used = codes.reshape(rows, -1, block).any(axis=-1)  # a block of zeros needs no scale
    scale_of_block = to_fp16(_block_scales(scales, rows, columns, kind) * used)
    blocks = codes.reshape(-1, block)
    encoded: np.ndarray = _ENCODERS[kind](blocks, scale_of_block.reshape(-1, 1))
    return encoded.reshape(rows, -1)


def _block_scales(scales: np.ndarray, rows: int, columns: int, kind: TernaryType) -> np.ndarray:
    """fp32 [out, in / block] from tensor or group scales."""
    if scales.ndim == 0:
        return np.broadcast_to(scales, (rows, columns // kind.layout.block))
    group = columns // scales.shape[1]
    if group % kind.layout.block:
        raise ExportError(
            f"a {kind} block of {kind.layout.block} weights has one scale, the tensor has one per {group}"
        )
    return np.repeat(scales, group // kind.layout.block, axis=1)


def to_fp16(scales: np.ndarray) -> np.ndarray:
    """Scales as fp16; raises ExportError where that costs more than a rounding of 2**-11."""
    with np.errstate(over="ignore", under="ignore"):
        half = np.asarray(scales, dtype=np.float32).astype(np.float16)
    error = np.abs(half.astype(np.float32) - scales)
    worst = np.argmax(error - FP16_RELATIVE_ERROR * np.abs(scales))
    if not (error <= FP16_RELATIVE_ERROR * np.abs(scales)).all():
        raise ExportError(f"the scale {np.ravel(scales)[worst]:.4g} does not fit into fp16")
    return half


def _encode_tq(kind: GGMLQuantizationType) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    def encode_blocks(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
        data: np.ndarray = quants.quantize(codes.astype(np.float32), kind)
        # gguf-py takes d = max|code|; the scale goes in its place.
        data[:, -2:] = np.ascontiguousarray(scales).view(np.uint8)
        return data

    return encode_blocks


def _encode_q2_0(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    levels = (codes + 1).astype(np.uint8).reshape(-1, 16, 4)
    packed = np.bitwise_or.reduce(levels << np.array([0, 2, 4, 6], np.uint8), axis=-1)
    return np.hstack([np.ascontiguousarray(scales).view(np.uint8), packed])


def _encode_q4_0(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    levels = (codes + 8).astype(np.uint8)
    packed = levels[:, :16] | levels[:, 16:] << 4
    return np.hstack([np.ascontiguousarray(scales).view(np.uint8), packed])


def _encode_f16(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(codes.astype(np.float16) * scales).view(np.uint8)


_ENCODERS = {
    TernaryType.TQ1_0: _encode_tq(GGMLQuantizationType.TQ1_0),
    TernaryType.TQ2_0: _encode_tq(GGMLQuantizationType.TQ2_0),
    TernaryType.Q2_0: _encode_q2_0,
    TernaryType.Q4_0: _encode_q4_0,
    TernaryType.F16: _encode_f16,
}
