"""What a block type of GGUF says of itself: how its blocks are read, and how ternary codes are written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wf_formats.gguf.types import TensorType

Decoder = Callable[[np.ndarray, np.ndarray, np.ndarray], None]
"""(uint8 [blocks, bytes], codes int8 [blocks, block] to fill, scales fp32 [blocks, groups] to fill)."""
OffsetDecoder = Callable[[np.ndarray, np.ndarray], None]
"""(uint8 [blocks, bytes], offsets fp32 [blocks, groups] to fill)."""
Encoder = Callable[..., np.ndarray]
"""(codes int8 [blocks, block], scales fp16 [blocks, 1]) -> uint8 [blocks, bytes]; of a type with a trailer,
which holds the scale, without looking at the scales. Of a type with offsets these come third, fp32
[blocks, 1]: they are added to each weight of a block."""
TERNARY = (-1, 1)


@dataclass(frozen=True)
class ExportType:
    """A type that holds codes times scales exactly, so that quantized matrices can be exported in it."""

    encode: Encoder
    file_type: int
    """`enum llama_ftype`, goes into general.file_type."""
    activations: TensorType
    """What llama.cpp rounds the other factor of a product to; I8: bitnet.cpp does, each token for itself."""
    codes: tuple[int, int] = TERNARY
    """The least and the largest."""
    has_offsets: bool = False
    """It is for matrices with offsets, which the others cannot hold."""


@dataclass(frozen=True)
class Codec:
    """A type whose weights are `code * scale` of their group, or that plus an offset; decoded exactly."""

    type: TensorType
    group: int
    """Weights that share a scale."""
    decode: Decoder | None = None
    """None: floats, which have no codes."""
    decode_offsets: OffsetDecoder | None = None
    """None: the type has none."""
    export: ExportType | None = None


def half(data: np.ndarray) -> np.ndarray:
    """fp16 at the head of each row of bytes -> fp32 [rows, 1]."""
    return np.ascontiguousarray(data[:, :2]).view("<f2").astype(np.float32)


def half_bytes(scales: np.ndarray) -> np.ndarray:
    """fp16 [rows, 1] -> uint8 [rows, 2]."""
    return np.ascontiguousarray(scales).view(np.uint8)


def gguf_py_encoder(kind: TensorType) -> Encoder:
    """gguf-py's encoder of a ternary type whose last two bytes are d: it takes d = max|code|, and the
    scale goes in its place."""

    def encode(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
        from gguf import quants
        from gguf.constants import GGMLQuantizationType

        data: np.ndarray = quants.quantize(codes.astype(np.float32), GGMLQuantizationType(kind))
        data[:, -2:] = half_bytes(scales)
        return data

    return encode
