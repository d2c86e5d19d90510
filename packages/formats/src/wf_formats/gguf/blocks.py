"""Tensor blocks of GGUF -> codes and scales, or plain values.

Types of which every weight is `code * scale` of its group are decoded exactly to int8 codes and fp32
scales (`codes_and_scales`); they keep their meaning to the bit. A block's bytes and its weights:

    type   weights bytes  layout                                                     value
    Q8_0      32    34    fp16 d, int8 q[32]                                         d q
    Q4_0      32    18    fp16 d, 16 bytes: weight j low nibble, j + 16 high         d (q - 8)
    Q6_K     256   210    ql[128], qh[64], int8 s[16], fp16 d (below)                d s[j / 16] (q - 32)
    TQ2_0    256    66    64 bytes, fp16 d: byte 32 h + m, bits 2 l -> 128 h + 32 l + m    d (q - 1)
    TQ1_0    256    54    48 + 4 bytes base 3, fp16 d (below)                        d (q - 1)
    Q2_0      64    18    fp16 d, 16 bytes: weight j is byte j / 4, bits 2 (j mod 4)       d (q - 1)
    I2_S     128    32    byte m: weight m bits 6-7, m + 32 bits 4-5, m + 64 bits 2-3,
                          m + 96 bits 0-1; one fp32 s behind the last block          s (q - 1)

TQ1_0: a byte b holds five trits as the fraction b / 256 in base 3; trit n is the integer part of
3 ((b 3^n) mod 256) / 256. Bytes 0-31 hold the trits of weights 32 n + m, bytes 32-47 those of
160 + 16 n + m (n = 0..4), the last four bytes those of 240 + 4 n + m (n = 0..3).
Q6_K: for each half h of 128 weights and m = 0..31, weights 128 h + m + (0, 32, 64, 96) take their low
four bits from ql[64 h + m] low, ql[64 h + 32 + m] low, ql[64 h + m] high, ql[64 h + 32 + m] high, and
their high two from bits 0-1, 2-3, 4-5, 6-7 of qh[32 h + m].
I2_S, as the x86 kernels of bitnet.cpp read it and its published files are written; the scale is the
first fp32 of a 32-byte trailer. A build of bitnet.cpp on ARM may have written blocks of 64 instead;
the file does not say which, so such a file loads and answers nonsense, there as here.

Sources: ggml's block structs and dequantization; bitnet.cpp's I2_S kernels and its issues 412, 585, 598.
Checked against gguf-py, where it knows a type. Cost: 1-3 ns a weight, numpy, one core.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from wf_formats.gguf.header import GgufError
from wf_formats.gguf.types import TensorType

GROUP_SIZES = {
    TensorType.Q8_0: 32,
    TensorType.Q4_0: 32,
    TensorType.Q6_K: 16,
    TensorType.TQ2_0: 256,
    TensorType.TQ1_0: 256,
    TensorType.Q2_0: 64,
    TensorType.I2_S: 128,
}
"""Weights that share a scale, by type, for the types that `codes_and_scales` decodes."""
FLOAT_TYPES = (TensorType.F32, TensorType.F16, TensorType.BF16, TensorType.F64)

_ROW_CHUNK_WEIGHTS = 1 << 20  # decoded at a time: the scratch arrays stay in the cache


def codes_and_scales(data: np.ndarray, kind: TensorType, num_columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Exact codes of a matrix.

    Args:
        data: uint8, the tensor's bytes.
        kind: a type in GROUP_SIZES.
        num_columns: weights in a row, K.

    Returns:
        codes int8 [N, K] and scales fp32 [N, K / group].
    """
    body = data[: data.size - kind.trailer_bytes].reshape(-1, kind.block_bytes)
    num_weights = body.shape[0] * kind.block
    codes = np.empty((body.shape[0], kind.block), np.int8)
    scales = np.empty((body.shape[0], kind.block // GROUP_SIZES[kind]), np.float32)
    step = _ROW_CHUNK_WEIGHTS // kind.block
    with np.errstate(invalid="ignore", over="ignore"):  # a damaged scale stays visible as NaN or infinity
        for start in range(0, body.shape[0], step):
            part = slice(start, start + step)
            _DECODERS[kind](body[part], codes[part], scales[part])
    if kind is TensorType.I2_S:
        scales[:] = data[-kind.trailer_bytes :][:4].view("<f4")[0]
    rows = num_weights // num_columns
    return codes.reshape(rows, num_columns), scales.reshape(rows, -1)


def values(data: np.ndarray, kind: TensorType, shape: tuple[int, ...]) -> np.ndarray:
    """fp32 values of a tensor.

    Raises:
        GgufError: there is no decoder for the type.
    """
    if kind in FLOAT_TYPES:
        return floats(data, kind).reshape(shape)
    if kind is TensorType.Q4_1:
        return _q4_1(data).reshape(shape)
    if kind not in GROUP_SIZES:
        known = ", ".join(known.name.lower() for known in (*FLOAT_TYPES, *GROUP_SIZES, TensorType.Q4_1))
        raise GgufError(f"tensors of type {kind.name.lower()} cannot be decoded; known are {known}")
    codes, scales = codes_and_scales(data, kind, shape[-1])
    grouped = codes.reshape(*scales.shape, -1) * scales[..., None]
    return grouped.reshape(shape)


def floats(data: np.ndarray, kind: TensorType) -> np.ndarray:
    """fp32 values of a float tensor's bytes; fp32 itself is a view."""
    if kind is TensorType.BF16:
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return data.view({TensorType.F64: "<f8", TensorType.F16: "<f2"}.get(kind, "<f4")).astype(
        np.float32, copy=False
    )


def _half(data: np.ndarray) -> np.ndarray:
    """fp16 at the head of each row of bytes -> fp32 [rows, 1]."""
    return np.ascontiguousarray(data[:, :2]).view("<f2").astype(np.float32)


def _decode_q8_0(blocks: np.ndarray, codes: np.ndarray, scales: np.ndarray) -> None:
    codes[:] = blocks[:, 2:].view(np.int8)
    scales[:] = _half(blocks)


def _decode_q4_0(blocks: np.ndarray, codes: np.ndarray, scales: np.ndarray) -> None:
    levels = codes.view(np.uint8)
    np.bitwise_and(blocks[:, 2:], 15, out=levels[:, :16])
    np.right_shift(blocks[:, 2:], 4, out=levels[:, 16:])
    codes -= 8
    scales[:] = _half(blocks)


def _decode_q6_k(blocks: np.ndarray, codes: np.ndarray, scales: np.ndarray) -> None:
    low = blocks[:, :128].reshape(-1, 2, 2, 32)  # [block, half of the weights, 64 h + 32 i + m]
    high = blocks[:, 128:192].reshape(-1, 2, 32)
    levels = codes.view(np.uint8).reshape(-1, 2, 4, 32)
    np.bitwise_and(low, 15, out=levels[:, :, :2])
    np.right_shift(low, 4, out=levels[:, :, 2:])
    for quarter in range(4):
        levels[:, :, quarter] |= (high >> 2 * quarter & 3) << 4
    codes -= 32
    np.multiply(blocks[:, 192:208].view(np.int8), _half(blocks[:, 208:]), out=scales)


def _decode_tq2_0(blocks: np.ndarray, codes: np.ndarray, scales: np.ndarray) -> None:
    packed, levels = blocks[:, :64].reshape(-1, 2, 32), codes.view(np.uint8).reshape(-1, 2, 4, 32)
    for plane in range(4):
        np.right_shift(packed, 2 * plane, out=levels[:, :, plane])
    levels &= 3
    codes -= 1
    scales[:] = _half(blocks[:, 64:])


def _decode_tq1_0(blocks: np.ndarray, codes: np.ndarray, scales: np.ndarray) -> None:
    for first_byte, num_bytes, first_weight, num_trits in ((0, 32, 0, 5), (32, 16, 160, 5), (48, 4, 240, 4)):
        packed = blocks[:, first_byte : first_byte + num_bytes]
        for trit in range(num_trits):
            rest = packed * np.uint8(3**trit)  # mod 256
            start = first_weight + trit * num_bytes
            # The integer part of 3 rest / 256 is 0 up to 85, 1 up to 170, then 2.
            codes[:, start : start + num_bytes] = (rest > 85).view(np.int8) + (rest > 170).view(np.int8)
    codes -= 1
    scales[:] = _half(blocks[:, 52:])


def _decode_q2_0(blocks: np.ndarray, codes: np.ndarray, scales: np.ndarray) -> None:
    codes[:] = FOUR_CODES[blocks[:, 2:]].view(np.int8)
    scales[:] = _half(blocks)


def _decode_i2_s(blocks: np.ndarray, codes: np.ndarray, scales: np.ndarray) -> None:
    levels = codes.view(np.uint8).reshape(-1, 4, 32)
    for plane in range(4):
        np.right_shift(blocks, 6 - 2 * plane, out=levels[:, plane])
    levels &= 3
    codes -= 1


def _q4_1(data: np.ndarray) -> np.ndarray:
    """fp16 d, fp16 m, nibbles as in Q4_0: value d q + m."""
    blocks = data.reshape(-1, TensorType.Q4_1.block_bytes)
    levels = np.hstack([blocks[:, 4:] & 15, blocks[:, 4:] >> 4]).astype(np.float32)
    return levels * _half(blocks) + _half(blocks[:, 2:])


def _four_codes() -> np.ndarray:
    """uint32 [256]: the int8 codes `(byte >> 2 i & 3) - 1`, i = 0..3, in memory order."""
    levels = np.arange(256, dtype=np.uint8)[:, None] >> np.array([0, 2, 4, 6], np.uint8) & 3
    return np.ascontiguousarray(levels.astype(np.int8) - np.int8(1)).view(np.uint32).reshape(-1)


FOUR_CODES = _four_codes()
"""Decodes a byte of four 2-bit codes, first code lowest, by one look-up."""

_DECODERS: dict[TensorType, Callable[[np.ndarray, np.ndarray, np.ndarray], None]] = {
    TensorType.Q8_0: _decode_q8_0,
    TensorType.Q4_0: _decode_q4_0,
    TensorType.Q6_K: _decode_q6_k,
    TensorType.TQ2_0: _decode_tq2_0,
    TensorType.TQ1_0: _decode_tq1_0,
    TensorType.Q2_0: _decode_q2_0,
    TensorType.I2_S: _decode_i2_s,
}
