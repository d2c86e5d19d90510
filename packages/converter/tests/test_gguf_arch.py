"""What has a GGUF architecture, and why the rest has none."""

import dataclasses

import numpy as np
import pytest
import torch

import bitnet_arch
from wf_converter.checkpoint import open_checkpoint
from wf_converter.errors import ExportError
from wf_converter.gguf_arch import gguf_architecture, permute_rope
from wf_formats.rope import frequency_divisors

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    ("case", "arch", "permutes"),
    [
        ("llama-tensor", "bitnet", False),
        ("llama-group64", "llama", True),
        ("mistral-group64", "llama", True),
        ("mistral-tensor", "bitnet", False),
        ("qwen2-group128", "qwen2", False),
        ("qwen3-group64", "qwen3", False),
    ],
)
def test_architecture_of_each_family(checkpoint, case, arch, permutes):
    found = gguf_architecture(open_checkpoint(checkpoint(case)))
    assert (found.name, found.rotates_pairs) == (arch, permutes)


def changed(opened, **config):
    return dataclasses.replace(opened, config=opened.config | config)


def test_other_activations_are_refused(checkpoint):
    opened = changed(open_checkpoint(checkpoint("llama-tensor")), hidden_act="relu2")
    with pytest.raises(ExportError, match=r"mlp\.gate_proj: activation 'relu2'.*--format hf"):
        gguf_architecture(opened)


def test_untied_head_with_sub_norm_is_refused(checkpoint):
    opened = open_checkpoint(checkpoint("llama-tensor", tie_word_embeddings=False))
    with pytest.raises(ExportError, match=r"lm_head\.weight: .*group64"):
        gguf_architecture(opened)


def test_sub_norm_in_qwen_is_refused(checkpoint):
    opened = open_checkpoint(checkpoint("qwen3-group64", scheme="tensor"))
    with pytest.raises(ExportError, match=r"o_proj: SubLN in a 'qwen3' model.*group64 or group128"):
        gguf_architecture(opened)


def test_rope_scaling_that_llamacpp_lacks_is_refused(checkpoint):
    with_sub_norm = changed(open_checkpoint(checkpoint("llama-tensor")), rope_parameters=LLAMA3_ROPE)
    with pytest.raises(ExportError, match=r"rope_freqs: .*'llama3' is not available in arch bitnet"):
        gguf_architecture(with_sub_norm)
    qwen = open_checkpoint(checkpoint("qwen3-group64"))
    with pytest.raises(ExportError, match="'llama3' is not available in arch qwen3"):
        gguf_architecture(changed(qwen, rope_parameters=LLAMA3_ROPE))
    yarn = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 128}
    assert gguf_architecture(changed(qwen, rope_parameters=yarn)).name == "qwen3"
    with pytest.raises(ExportError, match=r"'yarn' with other beta_fast.* is not available in arch qwen3"):
        gguf_architecture(changed(qwen, rope_parameters=yarn | {"beta_fast": 16.0}))


def test_short_windows_take_an_architecture_that_has_them(checkpoint):
    opened = changed(open_checkpoint(checkpoint("mistral-group64")), sliding_window=128)
    assert gguf_architecture(opened).name == "granite_swa"
    assert gguf_architecture(changed(opened, sliding_window=None)).name == "llama"
    assert gguf_architecture(changed(opened, sliding_window=512)).name == "llama"


def test_short_windows_where_no_architecture_has_them_are_refused(checkpoint):
    opened = open_checkpoint(checkpoint("qwen3-group64"))
    windows = {"use_sliding_window": True, "sliding_window": 128, "layer_types": ["sliding_attention"] * 2}
    with pytest.raises(ExportError, match=r"sliding windows of 128 tokens: arch qwen3.*--format hf"):
        gguf_architecture(changed(opened, **windows))


def test_unknown_model_type_is_refused(checkpoint):
    with pytest.raises(ExportError, match="'gemma' has no GGUF architecture"):
        gguf_architecture(changed(open_checkpoint(checkpoint("llama-group64")), model_type="gemma"))


def test_dense_checkpoint_is_refused(tiny_llama, tmp_path):
    bitnet_arch.save_checkpoint(tiny_llama(), None, tmp_path / "dense", {"stage": "dense"})
    with pytest.raises(ExportError, match="dense model"):
        open_checkpoint(tmp_path / "dense")
    with pytest.raises(ExportError, match=r"config\.json is missing"):
        open_checkpoint(tmp_path)


def test_llama3_divisors_are_transformers():
    """Against transformers' own initialisation of rotary frequencies."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(hidden_size=256, num_attention_heads=4, rope_parameters=LLAMA3_ROPE)
    config.standardize_rope_params()
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 500000.0 ** (-np.arange(32) / 32)
    np.testing.assert_allclose(plain / scaled.numpy(), frequency_divisors(64, LLAMA3_ROPE), rtol=1e-5)


def test_permutation_brings_halves_side_by_side():
    rows = np.arange(16).reshape(16, 1)
    permuted = permute_rope(rows, num_heads=2, num_rotated=8).ravel().tolist()
    assert permuted == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]
    part = permute_rope(rows, num_heads=2, num_rotated=4).ravel().tolist()
    assert part == [0, 2, 1, 3, 4, 5, 6, 7, 8, 10, 9, 11, 12, 13, 14, 15]
    assert permute_rope(np.float32(3.0), 2, 8) == 3.0
