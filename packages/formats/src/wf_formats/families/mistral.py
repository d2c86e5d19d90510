"""Mistral: the Llama block without biases; every layer attends within sliding_window where it is set.

Heads may be narrower or wider than hidden size / heads (Nemo: 32 x 128 with 5120). llama.cpp runs it as
`llama`. Short windows can be trained, but neither exported to GGUF nor run by the native engine.
"""

from __future__ import annotations

from wf_formats.families.base import Family
from wf_formats.families.llama import LLAMA_ARCH

MISTRAL = Family(
    model_type="mistral",
    names="Mistral Nemo, Small",
    archs=(LLAMA_ARCH,),
    optional=(),
    becomes_bitnet=True,
    window_needs_switch=False,
)
