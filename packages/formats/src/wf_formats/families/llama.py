"""Llama and models of its class. llama.cpp turns neighbouring pairs in this architecture."""

from __future__ import annotations

from wf_formats.families.base import Family, GgufArch
from wf_formats.families.block import BIASES

LLAMA_ARCH = GgufArch("llama", rotates_pairs=True, optional=BIASES, rope_types=("default", "llama3"))
LLAMA = Family(
    model_type="llama",
    names="Llama 2/3, SmolLM, SmolLM2",
    archs=(LLAMA_ARCH,),
    becomes_bitnet=True,
    may_omit_kv_heads=True,
)
