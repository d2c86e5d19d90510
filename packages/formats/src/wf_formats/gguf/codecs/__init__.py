"""Block types of GGUF, one file each, registered here.

    type   weights bytes  decoded exactly  export (bits a weight)
    TQ1_0    256    54    yes              1.6875
    TQ2_0    256    66    yes              2.0625
    Q2_0      64    18    yes              2.25
    Q4_0      32    18    yes              4.5
    Q4_1      32    20    with offsets     5 (4 bits with zero points alone)
    Q4_K     256   144    with offsets
    Q5_0      32    22    yes
    Q5_1      32    24    with offsets
    Q5_K     256   176    with offsets
    F16        1     2    floats           16
    Q8_0      32    34    yes              8.5
    Q6_K     256   210    yes
    I2_S     128    32    yes              2 (bitnet.cpp)

Sources: ggml's block structs and dequantization. Checked against gguf-py, where it knows a type.
"""

from __future__ import annotations

from wf_formats.gguf.codecs.base import Codec, ExportType
from wf_formats.gguf.codecs.f16 import F16
from wf_formats.gguf.codecs.i2_s import I2_S
from wf_formats.gguf.codecs.q2_0 import Q2_0
from wf_formats.gguf.codecs.q4_0 import Q4_0
from wf_formats.gguf.codecs.q4_1 import Q4_1
from wf_formats.gguf.codecs.q4_k import Q4_K
from wf_formats.gguf.codecs.q5_0 import Q5_0
from wf_formats.gguf.codecs.q5_1 import Q5_1
from wf_formats.gguf.codecs.q5_k import Q5_K
from wf_formats.gguf.codecs.q6_k import Q6_K
from wf_formats.gguf.codecs.q8_0 import Q8_0
from wf_formats.gguf.codecs.tq1_0 import TQ1_0
from wf_formats.gguf.codecs.tq2_0 import TQ2_0
from wf_formats.gguf.types import TensorType

__all__ = ["CODECS", "EMBEDDING_TYPES", "EXPORT_TYPES", "SCALE_GROUPS", "Codec", "ExportType"]

CODECS = {
    codec.type: codec
    for codec in (
        TQ1_0,
        TQ2_0,
        Q2_0,
        Q4_0,
        Q4_1,
        Q4_K,
        Q5_0,
        Q5_1,
        Q5_K,
        F16,
        Q8_0,
        Q6_K,
        I2_S,
    )
}
SCALE_GROUPS = {kind: codec.group for kind, codec in CODECS.items() if codec.decode is not None}
"""Weights that share a scale, by type, for the types that `blocks.codes_and_scales` decodes."""
EXPORT_TYPES: dict[TensorType, ExportType] = {
    kind: codec.export for kind, codec in CODECS.items() if codec.export is not None
}
"""Types for quantized matrices, as users are told of them."""
EMBEDDING_TYPES = {kind.label: kind for kind in (TensorType.F16, TensorType.Q8_0)}
"""Types for embeddings and head, by the name that users give."""
