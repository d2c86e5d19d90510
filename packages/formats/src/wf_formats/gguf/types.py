"""Tensor types of GGUF: their numbers, and how many weights share how many bytes.

Source: ggml's `enum ggml_type` and block structs; type 36 is the I2_S of bitnet.cpp (mainline gave the
number to a type that it has removed since). Other forks have numbers of their own, which are known to be told
what they are (FOREIGN_TYPES); bitnet.cpp's TL2 has that of mainline's MXFP4.
"""

from __future__ import annotations

from enum import IntEnum


class ValueType(IntEnum):
    """`enum gguf_type`: what a key's value is stored as."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12

    @property
    def label(self) -> str:
        """As the specification spells it."""
        return self.name.lower()


class TensorType(IntEnum):
    """`enum ggml_type`."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q8_1 = 9
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    Q8_K = 15
    IQ2_XXS = 16
    IQ2_XS = 17
    IQ3_XXS = 18
    IQ1_S = 19
    IQ4_NL = 20
    IQ3_S = 21
    IQ2_S = 22
    IQ4_XS = 23
    I8 = 24
    I16 = 25
    I32 = 26
    I64 = 27
    F64 = 28
    IQ1_M = 29
    BF16 = 30
    TQ1_0 = 34
    TQ2_0 = 35
    I2_S = 36
    MXFP4 = 39
    NVFP4 = 40
    Q1_0 = 41
    Q2_0 = 42

    @property
    def label(self) -> str:
        """What users call the type: its name in lower case."""
        return self.name.lower()

    @property
    def block(self) -> int:
        """Weights in a block; rows are a multiple of it."""
        return _BLOCKS[self][0]

    @property
    def block_bytes(self) -> int:
        return _BLOCKS[self][1]

    @property
    def trailer_bytes(self) -> int:
        """Bytes after the last block of a tensor: I2_S keeps its scale there."""
        return 32 if self is TensorType.I2_S else 0

    def row_bytes(self, num_columns: int) -> int:
        """Bytes of a row of so many weights (a multiple of `block`)."""
        return num_columns // self.block * self.block_bytes

    def num_bytes(self, num_weights: int) -> int:
        """Bytes of a tensor of so many weights (a multiple of `block`)."""
        return self.row_bytes(num_weights) + self.trailer_bytes


_TILES = "whose tiles are compiled into one build for one model, so that nobody else can read them"
_IK = "its llama-quantize makes them of I2_S files, which are read here"
FOREIGN_TYPES = {
    38: f"TL1 of bitnet.cpp, {_TILES}",
    134: f"IQ1_BN of ik_llama.cpp; {_IK}",
    135: f"IQ2_BN of ik_llama.cpp; {_IK}",
    335: f"IQ2_BN_R4 of ik_llama.cpp; {_IK}",
}
"""Numbers of forks -> what they are, and why they are not read."""
TL2 = f"TL2 of bitnet.cpp, {_TILES}"
TL2_FILE_TYPE = 39
"""general.file_type of a file with matrices of TL2; files with MXFP4 have another."""
_BLOCKS = {
    TensorType.F32: (1, 4),
    TensorType.F16: (1, 2),
    TensorType.Q4_0: (32, 18),
    TensorType.Q4_1: (32, 20),
    TensorType.Q5_0: (32, 22),
    TensorType.Q5_1: (32, 24),
    TensorType.Q8_0: (32, 34),
    TensorType.Q8_1: (32, 40),
    TensorType.Q2_K: (256, 84),
    TensorType.Q3_K: (256, 110),
    TensorType.Q4_K: (256, 144),
    TensorType.Q5_K: (256, 176),
    TensorType.Q6_K: (256, 210),
    TensorType.Q8_K: (256, 292),
    TensorType.IQ2_XXS: (256, 66),
    TensorType.IQ2_XS: (256, 74),
    TensorType.IQ3_XXS: (256, 98),
    TensorType.IQ1_S: (256, 50),
    TensorType.IQ4_NL: (32, 18),
    TensorType.IQ3_S: (256, 110),
    TensorType.IQ2_S: (256, 82),
    TensorType.IQ4_XS: (256, 136),
    TensorType.I8: (1, 1),
    TensorType.I16: (1, 2),
    TensorType.I32: (1, 4),
    TensorType.I64: (1, 8),
    TensorType.F64: (1, 8),
    TensorType.IQ1_M: (256, 56),
    TensorType.BF16: (1, 2),
    TensorType.TQ1_0: (256, 54),
    TensorType.TQ2_0: (256, 66),
    TensorType.I2_S: (128, 32),
    TensorType.MXFP4: (32, 17),
    TensorType.NVFP4: (64, 36),
    TensorType.Q1_0: (128, 18),
    TensorType.Q2_0: (64, 18),
}
