"""Qwen 3: norms on the heads of q and k, heads wider than hidden size / heads."""

from __future__ import annotations

from wf_formats.families.base import Family, GgufArch
from wf_formats.families.block import ATTENTION_BIASES, QK_NORMS
from wf_formats.families.qwen2 import qwen_layer_types

QWEN3 = Family(
    model_type="qwen3",
    names="Qwen 3",
    archs=(GgufArch("qwen3", extras=QK_NORMS, has_matrix_scales=True),),
    extras=QK_NORMS,
    optional=(ATTENTION_BIASES,),
    layer_types=qwen_layer_types,
)
