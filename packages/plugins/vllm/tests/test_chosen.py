"""Which folders the method takes over from vLLM's own."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest

from wf_formats.errors import LoadError
from wf_formats.models.hf_compressed import quantization_config
from wrinklefree_vllm import register
from wrinklefree_vllm.chosen import METHOD, is_taken, quantization_of

TERNARY = quantization_config("group64")
FOUR_BITS = quantization_config("int4-group64")
BITNET = {"quant_method": "bitnet", "linear_class": "bitlinear", "quantization_mode": "offline"}


@pytest.mark.parametrize(
    ("settings", "asked_for", "taken"),
    [
        (TERNARY, None, True),
        (quantization_config("tensor"), None, True),
        (TERNARY, METHOD, True),
        (TERNARY | {"total_num_heads": 9, "total_num_kv_heads": 3}, None, True),  # added by vLLM
        (TERNARY, "humming", False),  # vLLM's own, on request
        (FOUR_BITS, None, False),
        (FOUR_BITS, METHOD, True),  # to be told why not
        (quantization_config("int4-group64-zero"), None, False),
        (BITNET, None, True),
        (BITNET | {"linear_class": "another"}, None, True),  # vLLM has no such method: told why not
        ({"quant_method": "wrinklefree_packed", "scheme": "group64"}, None, True),
        ({"quant_method": "wrinklefree", "scheme": "group64"}, None, True),
        ({"quant_method": "gptq", "bits": 4}, None, False),
        ({}, None, False),
    ],
)
def test_which_folders_are_taken(settings, asked_for, taken):
    assert is_taken(settings, asked_for, has_own_kernels=False) is taken


def test_four_bits_by_our_method_are_refused_in_one_line():
    with pytest.raises(LoadError, match=r"^weights of 4 bits .*no --quantization, --dtype float16\)$"):
        quantization_of(FOUR_BITS)


def test_on_a_gpu_vllm_keeps_what_it_multiplies_by_itself():
    """Unless ours is asked for; SubLN and packed groups it does not have."""
    for settings, asked_for, taken in ((TERNARY, None, False), (TERNARY, METHOD, True), (BITNET, None, True)):
        assert is_taken(settings, asked_for, has_own_kernels=True) is taken


def test_vllm_finds_the_plug_in():
    (entry,) = [entry for entry in entry_points(group="vllm.general_plugins") if entry.name == METHOD]
    assert entry.load() is register
