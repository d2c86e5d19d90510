"""SGLang's Llama, named here so that SGLang need not import its 200 other models to find it."""

from __future__ import annotations

from sglang.srt.models.llama import LlamaForCausalLM

EntryClass = LlamaForCausalLM
