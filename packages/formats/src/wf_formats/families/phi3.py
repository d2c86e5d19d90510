"""Phi-3, Phi-3.5 and Phi-4 (mini too): q, k, v in one linear, gate and up in another.

Windows as in Mistral. Phi-4-mini turns three quarters of each head; the long-context models scale the
rotary frequencies one by one (longrope). llama.cpp's `phi3` wants the fused matrices and ignores windows;
taken apart, the block is Llama's, and goes into the architectures of that.
"""

from __future__ import annotations

from wf_formats.families.base import Family
from wf_formats.families.llama import LAYERED_ARCH, LLAMA_ARCH
from wf_formats.families.mistral import all_slide

PHI3 = Family(
    model_type="phi3",
    names="Phi-3, Phi-3.5, Phi-4",
    archs=(LLAMA_ARCH, LAYERED_ARCH),
    optional=(),
    fused={"self_attn.qkv_proj": ("q", "k", "v"), "mlp.gate_up_proj": ("gate", "up")},
    rotates_part=True,
    layer_types=all_slide,
)
