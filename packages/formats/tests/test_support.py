"""What a configuration can become: reasons name what stands in the way and what helps."""

from __future__ import annotations

from typing import Any

import pytest

from wf_formats.families import FAMILIES
from wf_formats.families.support import TARGETS, gguf_arch, support

BASE: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 512,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}
GEMMA = {"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 64, "sliding_window": 64}
GEMMA |= {"model_type": "gemma3_text", "rope_local_base_freq": 1e4}
LLAMA_3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA_3 |= {"original_max_position_embeddings": 64}
YARN = {"type": "yarn", "factor": 4.0}
LONGROPE = {"type": "longrope", "short_factor": [1.0] * 32, "long_factor": [2.0] * 32}
PHI = {"model_type": "phi3", "original_max_position_embeddings": 256}
RUNS_EVERYWHERE: dict[str, tuple[dict[str, Any], str, bool, str]] = {
    "4 bits": ({}, "int4-group64-zero", False, "llama"),
    "llama": ({}, "tensor", True, "bitnet"),
    "llama, groups": ({}, "group64", False, "llama"),
    "no rotary base, as Llama 2": (
        {"rope_theta": None, "num_key_value_heads": None},
        "group64",
        False,
        "llama",
    ),
    "llama3": ({"rope_scaling": LLAMA_3}, "group64", False, "llama"),
    "yarn, SubLN": ({"rope_scaling": YARN}, "tensor", True, "bitnet"),
    "biases": ({"attention_bias": True, "mlp_bias": True}, "group128", False, "llama"),
    "mistral": ({"model_type": "mistral", "sliding_window": 64}, "group64", False, "granite_swa"),
    "mistral, window of all": ({"model_type": "mistral", "sliding_window": 512}, "tensor", True, "bitnet"),
    "smollm3": ({"model_type": "smollm3"}, "group64", False, "smollm3"),
    "smollm3, other step": (
        {"model_type": "smollm3", "no_rope_layer_interval": 2},
        "group64",
        False,
        "granite_swa",
    ),
    "gemma3": (GEMMA, "group64", False, "gemma3"),
    "phi": (PHI | {"sliding_window": 64}, "group64", False, "granite_swa"),
    "phi, long context": (PHI | {"rope_scaling": LONGROPE}, "group64", False, "llama"),
    "4 bits, zero points": ({"model_type": "qwen3"}, "int4-group32-zero", False, "qwen3"),
    "checkpoint": ({"model_type": "bitnet"}, "tensor", True, "bitnet"),
}
REFUSALS: dict[str, tuple[dict[str, Any], str, bool, dict[str, str]]] = {
    "SubLN with groups": ({}, "group64", True, {"gguf": "model.sub_norm=false", "hf": "no packed form"}),
    "SubLN in Qwen": (
        {"model_type": "qwen3"},
        "tensor",
        True,
        {"gguf": "SubLN in a 'qwen3'", "hf": "no bitnet counterpart"},
    ),
    "SubLN with a window": (
        {"model_type": "mistral", "sliding_window": 64},
        "tensor",
        True,
        {"gguf": "SubLN in a 'mistral'", "hf": "layers see 64 tokens"},
    ),
    "tensor without SubLN": ({}, "tensor", False, {"hf": "no SubLN has no packed form"}),
    "untied, SubLN": ({"tie_word_embeddings": False}, "tensor", True, {"gguf": "lm_head.weight"}),
    "llama3, SubLN": ({"rope_scaling": LLAMA_3}, "tensor", True, {"gguf": "'llama3' is not available"}),
    "yarn of Gemma": (GEMMA | {"rope_scaling": YARN}, "group64", False, {"gguf": "'yarn' is not available"}),
    "scale of Gemma": (
        GEMMA | {"query_pre_attn_scalar": 40},
        "group64",
        False,
        {"gguf": "query_pre_attn_scalar is 40"},
    ),
    "windows of Gemma": (
        GEMMA | {"layer_types": ["full_attention", "sliding_attention"]},
        "group64",
        False,
        {"gguf": "do not come in a fixed period"},
    ),
    "biases of Qwen 3": (
        {"model_type": "qwen3", "attention_bias": True},
        "group64",
        False,
        {"gguf": "attention_bias: arch qwen3"},
    ),
    "unknown model": ({"model_type": "mixtral"}, "group64", False, dict.fromkeys(TARGETS, "'mixtral'")),
    "SubLN in fused matrices": (PHI, "tensor", True, dict.fromkeys(TARGETS, "model.sub_norm=false")),
    "SubLN in fused matrices, groups": (PHI, "group64", True, dict.fromkeys(TARGETS, "qkv_proj, ")),
    "factors of another head": (
        PHI | {"rope_scaling": LONGROPE | {"short_factor": [1.0] * 24}},
        "group64",
        False,
        dict.fromkeys(("gguf", "native"), "not 32 numbers"),
    ),
    "factors of nothing": (
        PHI | {"rope_scaling": LONGROPE | {"short_factor": [0.0] * 32}},
        "group64",
        False,
        dict.fromkeys(("gguf", "native"), "not a positive number"),
    ),
    "no factors": (
        PHI | {"rope_scaling": {"type": "longrope"}},
        "group64",
        False,
        dict.fromkeys(("gguf", "native"), "short_factor is None"),
    ),
    "factor of YaRN": (
        {"rope_scaling": YARN | {"factor": 0}},
        "group64",
        False,
        dict.fromkeys(("gguf", "native"), "factor"),
    ),
    "part of a pair": (
        PHI | {"partial_rotary_factor": 0.02},
        "group64",
        False,
        dict.fromkeys(("gguf", "native"), "need pairs"),
    ),
    "unknown": ({}, "int3-group64", False, dict.fromkeys(TARGETS, "'int3-group64' are not known here")),
    "unknown scaling": (
        {"rope_scaling": {"type": "mrope"}},
        "group64",
        False,
        {"gguf": "'mrope' is not supported", "native": "'mrope' is not supported"},
    ),
    "capped logits": (
        GEMMA | {"final_logit_softcapping": 30.0},
        "group64",
        False,
        {"gguf": "final_logit_softcapping", "native": "final_logit_softcapping"},
    ),
    "no shape": ({"hidden_size": None}, "tensor", True, dict.fromkeys(TARGETS, "hidden_size is None")),
    "no heads": ({"num_attention_heads": "4"}, "tensor", True, dict.fromkeys(TARGETS, "heads is '4'")),
}


@pytest.mark.parametrize("case", RUNS_EVERYWHERE)
def test_what_runs_everywhere(case):
    changes, scheme, sub_norm, arch = RUNS_EVERYWHERE[case]
    assert support(BASE | changes, scheme, sub_norm) == dict.fromkeys(TARGETS)
    assert gguf_arch(BASE | changes, scheme, sub_norm).name == arch


@pytest.mark.parametrize("case", REFUSALS)
def test_reasons_name_what_stands_in_the_way(case):
    changes, scheme, sub_norm, reasons = REFUSALS[case]
    found = support(BASE | changes, scheme, sub_norm)
    expected = {"llamacpp": reasons["gguf"]} | reasons if "gguf" in reasons else reasons
    assert {target for target, reason in found.items() if reason is not None} == expected.keys(), found
    for target, part in expected.items():
        assert part in str(found[target])


@pytest.mark.parametrize("name", FAMILIES)
def test_group_scales_work_for_every_family_that_can_be_converted(name):
    if FAMILIES[name].can_be_converted:
        config = BASE | (GEMMA if name == "gemma3_text" else {"model_type": name})
        assert support(config, "group64", False) == dict.fromkeys(TARGETS)
