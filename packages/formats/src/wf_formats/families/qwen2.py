"""Qwen 2 and 2.5: biases on q, k and v."""

from __future__ import annotations

from wf_formats.families.base import Family, GgufArch
from wf_formats.families.block import BIASES

QWEN2 = Family(
    model_type="qwen2",
    names="Qwen 2, 2.5",
    archs=(GgufArch("qwen2", extras=BIASES),),
    extras=BIASES,
)
