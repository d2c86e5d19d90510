"""Tensor blocks of GGUF <-> codes and scales, or plain values; the types are in `codecs`.

Reading: types of which every weight is `code * scale` of its group are decoded exactly to int8 codes
and fp32 scales (`codes_and_scales`); they keep their meaning to the bit. What some types add to each weight
of a group is `offsets_of`. Cost: 1-3 ns a weight, numpy, one core.

Writing (`encode`): codes of 2 or 4 bits, in types that hold codes times scales exactly. Scales go to fp16
(relative error at most 2**-11); a scale that fp16 holds less exactly (subnormal or overflow) is an
error. Callers that need the exact fp32 scale store unit blocks and a `.scale` tensor. I2_S has one fp32 scale
for the matrix, behind its blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from wf_formats.errors import FormatError
from wf_formats.gguf.codecs import CODECS, EXPORT_TYPES, SCALE_GROUPS
from wf_formats.gguf.header import GgufError
from wf_formats.gguf.types import TensorType

FLOAT_TYPES = (TensorType.F32, TensorType.F16, TensorType.BF16, TensorType.F64)
READABLE_TYPES = (*FLOAT_TYPES, *SCALE_GROUPS)
FP16_RELATIVE_ERROR = 2.0**-11

_ROW_CHUNK_WEIGHTS = 1 << 20  # decoded at a time: the scratch arrays stay in the cache


def codes_and_scales(data: np.ndarray, kind: TensorType, num_columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Exact codes of a matrix.

    Args:
        data: uint8, the tensor's bytes.
        kind: a type in SCALE_GROUPS.
        num_columns: weights in a row, K.

    Returns:
        codes int8 [N, K] and scales fp32 [N, K / group]; of a type with offsets, the weights less these.
    """
    codec = CODECS[kind]
    assert codec.decode is not None, kind
    body = _blocks(data, kind)
    num_weights = body.shape[0] * kind.block
    codes = np.empty((body.shape[0], kind.block), np.int8)
    scales = np.empty((body.shape[0], kind.block // codec.group), np.float32)
    step = _ROW_CHUNK_WEIGHTS // kind.block
    with np.errstate(invalid="ignore", over="ignore"):  # a damaged scale stays visible as NaN or infinity
        for start in range(0, body.shape[0], step):
            part = slice(start, start + step)
            codec.decode(body[part], codes[part], scales[part])
    if kind.trailer_bytes:
        scales[:] = data[-kind.trailer_bytes :][:4].view("<f4")[0]
    rows = num_weights // num_columns
    return codes.reshape(rows, num_columns), scales.reshape(rows, -1)


def offsets_of(data: np.ndarray, kind: TensorType, num_columns: int) -> np.ndarray | None:
    """fp32 [N, K / group], what each weight of a group is besides `code * scale`; None: nothing."""
    codec, body = CODECS[kind], _blocks(data, kind)
    if codec.decode_offsets is None:
        return None
    offsets = np.empty((body.shape[0], kind.block // codec.group), np.float32)
    with np.errstate(invalid="ignore", over="ignore"):  # as of scales
        codec.decode_offsets(body, offsets)
    return offsets.reshape(-1, num_columns // codec.group)


def _blocks(data: np.ndarray, kind: TensorType) -> np.ndarray:
    return data[: data.size - kind.trailer_bytes].reshape(-1, kind.block_bytes)


def values(data: np.ndarray, kind: TensorType, shape: tuple[int, ...]) -> np.ndarray:
    """fp32 values of a tensor.

    Raises:
        GgufError: there is no decoder for the type.
    """
    if kind in FLOAT_TYPES:
        return floats(data, kind).reshape(shape)
    if kind not in SCALE_GROUPS:
        known = ", ".join(known.label for known in READABLE_TYPES)
        raise GgufError(f"tensors of type {kind.label} cannot be decoded; known are {known}")
    codes, scales = codes_and_scales(data, kind, shape[-1])
    offsets = offsets_of(data, kind, shape[-1])
    with np.errstate(invalid="ignore", over="ignore"):  # as of scales
        grouped = codes.reshape(*scales.shape, -1) * scales[..., None]
        if offsets is not None:
            grouped += offsets[..., None]
    return grouped.reshape(shape)


def floats(data: np.ndarray, kind: TensorType) -> np.ndarray:
    """fp32 values of a float tensor's bytes; fp32 itself is a view."""
    if kind is TensorType.BF16:
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return data.view({TensorType.F64: "<f8", TensorType.F16: "<f2"}.get(kind, "<f4")).astype(
        np.float32, copy=False
    )


def encode(
    codes: np.ndarray, scales: np.ndarray, kind: TensorType, offsets: np.ndarray | None = None
) -> np.ndarray:
    """Blocks of a quantized matrix.

    Args:
        codes: int8 [out, in], such as the type holds.
        scales: fp32 [] (whole tensor) or [out, in / group].
        kind: a type in EXPORT_TYPES.
        offsets: fp32 [out, in / group], of a type with offsets.

    Returns:
        uint8 [out, row bytes]; [bytes] of a type with a trailer.

    Raises:
        FormatError: K is not a multiple of the block, a block would need two scales, or fp16 cannot
            hold a scale within 2**-11 (or an offset).
    """
    rows, columns = codes.shape
    export = EXPORT_TYPES[kind]
    assert export.has_offsets == (offsets is not None), kind
    if columns % kind.block:
        raise FormatError(f"rows of {columns} weights are not a multiple of the {kind.block} of {kind.label}")
    if kind.trailer_bytes:
        return _with_trailer(codes, scales, kind)
    used: Any = True
    if offsets is None:
        used = codes.reshape(rows, -1, kind.block).any(axis=-1)  # a block of zeros needs no scale
    with np.errstate(invalid="ignore"):  # what is not finite is refused
        scale_of_block = to_fp16(_block_scales(scales, rows, columns, kind) * used)
    added = [] if offsets is None else [_block_scales(offsets, rows, columns, kind) * used]
    blocks = codes.reshape(-1, kind.block)
    encoded = export.encode(blocks, *(of_block.reshape(-1, 1) for of_block in (scale_of_block, *added)))
    return encoded.reshape(rows, -1)


def _with_trailer(codes: np.ndarray, scales: np.ndarray, kind: TensorType) -> np.ndarray:
    """Blocks, the fp32 scale of the matrix, zeros."""
    if scales.ndim:
        raise FormatError(f"{kind.label} has one scale for the whole matrix, this one has {scales.size}")
    trailer = np.zeros(kind.trailer_bytes, np.uint8)
    trailer[:4] = np.asarray(scales, "<f4").reshape(1).view(np.uint8)
    blocks = EXPORT_TYPES[kind].encode(codes.reshape(-1, kind.block), scales)
    return np.concatenate([blocks.reshape(-1), trailer])


def to_fp16(scales: np.ndarray) -> np.ndarray:
    """Scales as fp16; raises FormatError where that costs more than a rounding of 2**-11."""
    with np.errstate(over="ignore", under="ignore"):
        half_scales = np.asarray(scales, dtype=np.float32).astype(np.float16)
    error = np.abs(half_scales.astype(np.float32) - scales)
    worst = np.argmax(error - FP16_RELATIVE_ERROR * np.abs(scales))
    if not (error <= FP16_RELATIVE_ERROR * np.abs(scales)).all():
        raise FormatError(f"the scale {np.ravel(scales)[worst]:.4g} does not fit into fp16")
    return half_scales


def _block_scales(scales: np.ndarray, rows: int, columns: int, kind: TensorType) -> np.ndarray:
    """fp32 [out, in / block] from tensor or group scales."""
    if scales.ndim == 0:
        return np.broadcast_to(scales, (rows, columns // kind.block))
    group = columns // scales.shape[1]
    if group % kind.block:
        raise FormatError(
            f"a {kind.label} block of {kind.block} weights has one scale, the tensor has one per {group}"
        )
    return np.repeat(scales, group // kind.block, axis=1)
