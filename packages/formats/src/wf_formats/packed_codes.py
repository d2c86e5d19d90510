"""Codes of two bits each, in the orders that Hugging Face folders know, and of four.

With levels u = q + 1 in {0, 1, 2} for codes q in {-1, 0, 1}, and i = 0..3:

    inputs  uint8 [out, in / 4]  byte [r, c] holds u[r, 4 c + i] at bit 2 i
            quant_method "wrinklefree_packed". Codes run along the inputs: rows, and columns in fours,
            can be cut for tensor parallelism without repacking. GGUF's Q2_0 has it within a block.
    rows    uint8 [out / 4, in]  byte [r, c] holds u[r + i R, c] at bit 2 i, R = out / 4
            quant_method "bitnet", that of transformers (`integrations.bitnet`), by blocks of rows.
    words   int32 [out, in / 16] word [r, c] holds u[r, 16 c + i] + 1 at bits 2 i, i = 0..15
            quant_method "compressed-tensors": 2-bit signed integers plus 2, little endian.

    nibbles int32 [out, in / 8]  word [r, c] holds q[r, 8 c + i] + 8 at bits 4 i, i = 0..7
            the same for codes of 4 bits, -8 to 7.

What is left of the four levels is not a code; unpacking makes 2 of it (of words -2), which a reader of
foreign files has to look for.
Cost: one pass over the bytes.
"""

from __future__ import annotations

import numpy as np

CODES_PER_BYTE = 4
CODES_PER_WORD = 16
NIBBLES_PER_WORD = 8
SHIFTS = (0, 2, 4, 6)
"""Bits of the four codes."""


def _four_codes() -> np.ndarray:
    """uint32 [256]: the int8 codes `(byte >> 2 i & 3) - 1`, i = 0..3, in memory order."""
    levels = np.arange(256, dtype=np.uint8)[:, None] >> np.array(SHIFTS, np.uint8) & 3
    return np.ascontiguousarray(levels.astype(np.int8) - np.int8(1)).view(np.uint32).reshape(-1)


_ONE_MORE = np.uint8(0b01010101)
"""Added to a byte, it raises each of the four levels by one."""
_FOUR_CODES = _four_codes()
"""Decodes a byte of four 2-bit codes, first code lowest, by one look-up."""


def pack_inputs(codes: np.ndarray) -> np.ndarray:
    """int8 [out, in] in {-1, 0, 1} -> uint8 [out, in / 4].

    Raises:
        ValueError: the number of inputs is not a multiple of 4.
    """
    rows, columns = codes.shape
    if columns % CODES_PER_BYTE:
        raise ValueError(f"{columns} inputs are not a multiple of {CODES_PER_BYTE}, the codes of a byte")
    return _packed(codes.reshape(rows, -1, CODES_PER_BYTE), axis=2)


def unpack_inputs(packed: np.ndarray) -> np.ndarray:
    """uint8 [out, in / 4] -> int8 [out, in]."""
    codes: np.ndarray = _FOUR_CODES[packed].view(np.int8).reshape(packed.shape[0], -1)
    return codes


def pack_words(codes: np.ndarray) -> np.ndarray:
    """int8 [out, in] in {-1, 0, 1} -> int32 [out, in / 16].

    Raises:
        ValueError: the number of inputs is not a multiple of 16.
    """
    if (columns := codes.shape[1]) % CODES_PER_WORD:
        raise ValueError(f"{columns} inputs are not a multiple of {CODES_PER_WORD}, the codes of a word")
    packed = pack_inputs(codes) + _ONE_MORE  # never a carry: levels go up to 2
    words: np.ndarray = packed.view("<i4")
    return words.astype(np.int32, copy=False)


def unpack_words(words: np.ndarray) -> np.ndarray:
    """int32 [out, in / 16] -> int8 [out, in]."""
    packed = np.ascontiguousarray(words, "<i4").view(np.uint8)
    codes = unpack_inputs(packed)
    codes -= 1
    return codes


def pack_nibbles(codes: np.ndarray) -> np.ndarray:
    """int8 [out, in], -8 to 7 -> int32 [out, in / 8].

    Raises:
        ValueError: the number of inputs is not a multiple of 8.
    """
    if (columns := codes.shape[1]) % NIBBLES_PER_WORD:
        raise ValueError(f"{columns} inputs are not a multiple of {NIBBLES_PER_WORD}, the codes of a word")
    levels = (codes + 8).astype(np.uint8)
    packed = np.ascontiguousarray(levels[:, ::2] | levels[:, 1::2] << 4)
    words: np.ndarray = packed.view("<i4")
    return words.astype(np.int32, copy=False)


def unpack_nibbles(words: np.ndarray) -> np.ndarray:
    """int32 [out, in / 8] -> int8 [out, in]."""
    packed = np.ascontiguousarray(words, "<i4").view(np.uint8)
    codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1).view(np.int8)
    return codes - np.int8(8)


def pack_rows(codes: np.ndarray) -> np.ndarray:
    """int8 [out, in] in {-1, 0, 1} -> uint8 [out / 4, in].

    Raises:
        ValueError: the number of rows is not a multiple of 4.
    """
    rows, columns = codes.shape
    if rows % CODES_PER_BYTE:
        raise ValueError(
            f"{rows} rows are not a multiple of {CODES_PER_BYTE}, as transformers' packing needs"
        )
    return _packed(codes.reshape(CODES_PER_BYTE, -1, columns), axis=0)


def unpack_rows(packed: np.ndarray) -> np.ndarray:
    """uint8 [out / 4, in] -> int8 [out, in]."""
    rows, columns = packed.shape
    codes = np.empty((CODES_PER_BYTE, rows, columns), np.int8)
    levels = codes.view(np.uint8)
    for plane, shift in enumerate(SHIFTS):
        np.right_shift(packed, shift, out=levels[plane])
    levels &= 3
    codes -= 1
    return codes.reshape(CODES_PER_BYTE * rows, columns)


def _packed(codes: np.ndarray, axis: int) -> np.ndarray:
    """Joins the four codes along `axis`."""
    levels = np.moveaxis((codes + 1).astype(np.uint8), axis, -1)
    packed: np.ndarray = np.bitwise_or.reduce(levels << np.array(SHIFTS, np.uint8), axis=-1)
    return packed
