"""Llama and models of its class. llama.cpp turns neighbouring pairs in this architecture.

`granite_swa` is llama.cpp's only architecture of the Llama block that can say for each layer whether it has a
window and rotary positions; what `llama` cannot hold for that reason is written for it.
"""

from __future__ import annotations

from wf_formats.families.base import Family, GgufArch
from wf_formats.families.block import ATTENTION_BIASES, MLP_BIASES, QKV_BIASES

LLAMA_ARCH = GgufArch(
    "llama",
    rotates_pairs=True,
    has_matrix_scales=True,
    optional=(QKV_BIASES, ("o_bias",), MLP_BIASES),
    has_rope_freqs=True,
    in_bitnetcpp=True,
)
LAYERED_ARCH = GgufArch(
    "granite_swa",
    rotates_pairs=True,
    optional=(QKV_BIASES, ("o_bias",), MLP_BIASES),
    has_rope_freqs=True,
    windows="layers",
    tells_rope_layers=True,
    has_sinks=True,
    constants={"logit_scale": 1.0},
)
LLAMA = Family(
    model_type="llama",
    names="Llama 2/3, SmolLM, SmolLM2",
    archs=(LLAMA_ARCH,),
    optional=(ATTENTION_BIASES, MLP_BIASES),
    becomes_bitnet=True,
    may_omit_kv_heads=True,
)
