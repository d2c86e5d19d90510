"""The linear's method and the configuration, with empty base classes in the place of vLLM's."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ternary_kernels.torch_ops import PackedLinear
from wf_formats.errors import LoadError
from wf_formats.models.hf_compressed import quantization_config
from wf_formats.models.hf_config import read_config, read_quantization
from wf_formats.packed_codes import pack_words

SETTINGS = quantization_config("group64")
ROWS, COLUMNS = (8, 4, 4), 64


class _Base:
    """In the place of vLLM's own, of which nothing but the types is asked for."""


class _Linear(torch.nn.Module):
    pass


STAND_INS = {
    "vllm.model_executor.layers.linear": {"LinearMethodBase": _Base, "LinearBase": _Linear},
    "vllm.model_executor.layers.quantization.base_config": {
        "QuantizationConfig": _Base,
        "QuantizeMethodBase": _Base,
    },
    "vllm.platforms": {"current_platform": SimpleNamespace(is_cuda=lambda: False)},
}


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch):
    for name, contents in STAND_INS.items():
        parts = name.split(".")
        for count in range(1, len(parts) + 1):
            parent = ".".join(parts[:count])
            monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
        vars(sys.modules[name]).update(contents)
    for ours in ("wrinklefree_vllm.linear", "wrinklefree_vllm.config"):
        monkeypatch.delitem(sys.modules, ours, raising=False)
    yield import_module("wrinklefree_vllm.config").TernaryConfig
    for ours in ("wrinklefree_vllm.linear", "wrinklefree_vllm.config"):
        sys.modules.pop(ours, None)


def _make(method, layer, input_cut: int = 1, output_cut: int = 1) -> None:
    rows = [count // output_cut for count in ROWS]
    method.create_weights(layer, COLUMNS // input_cut, rows, COLUMNS, sum(ROWS), torch.float32)


def test_a_joined_linear_is_loaded_packed_and_applied(config):
    layer = _Linear()
    method = config.from_config(SETTINGS).get_quant_method(layer, "model.layers.0.self_attn.qkv_proj")
    _make(method, layer)
    random, weights, scales = np.random.default_rng(0), [], []
    for shard, rows in zip("qkv", ROWS, strict=True):
        weights.append(random.integers(-1, 2, (rows, COLUMNS)).astype(np.int8))
        scales.append(np.full((rows, 1), 0.5 * rows, np.float32))
        tensors = {
            "weight_packed": torch.from_numpy(pack_words(weights[-1])),
            "weight_scale": torch.from_numpy(scales[-1]),
            "weight_shape": torch.tensor([rows, COLUMNS]),
        }
        for name, tensor in tensors.items():
            parameter = layer.get_parameter(name)
            parameter.weight_loader(parameter, tensor, shard)
    method.process_weights_after_loading(layer)
    whole = (torch.from_numpy(np.concatenate(arrays)) for arrays in (weights, scales))
    codes, by_row = whole
    x, bias = torch.randn(3, COLUMNS), torch.randn(sum(ROWS))
    expected = PackedLinear.from_ternary(codes, by_row.squeeze(1))(x)
    assert torch.equal(method.apply(layer, x), expected)
    assert torch.equal(method.apply(layer, x, bias), expected + bias)


@pytest.mark.parametrize(("input_cut", "output_cut"), [(2, 1), (1, 2)])
def test_matrices_are_not_cut(config, input_cut, output_cut):
    layer = _Linear()
    method = config.from_config(SETTINGS).get_quant_method(layer, "down_proj")
    with pytest.raises(ValueError, match=r"down_proj: .*--tensor-parallel-size 1"):
        _make(method, layer, input_cut, output_cut)


def test_what_is_no_linear_is_left_alone(config):
    """Embeddings and head."""
    assert config.from_config(SETTINGS).get_quant_method(torch.nn.Embedding(4, 4), "lm_head") is None


def test_a_training_checkpoint_is_refused_with_the_command(config):
    assert config.override_quantization_method({"quant_method": "wrinklefree"}, None) == "wrinklefree"
    with pytest.raises(LoadError, match="wf export --checkpoint FOLDER"):
        config.from_config({"quant_method": "wrinklefree", "scheme": "group64"})


def test_a_folder_without_a_tensor_is_refused(config, tmp_path: Path):
    """vLLM does not miss it: a norm would stay as it was made."""
    config_json = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "vocab_size": 32,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "rope_theta": 10000.0,
        "quantization_config": SETTINGS,
    }
    (tmp_path / "config.json").write_text(json.dumps(config_json))
    tensors = _tensors(config_json)
    save_file(tensors, tmp_path / "model.safetensors")
    loaded = config.from_config(SETTINGS)
    loaded.maybe_update_config(str(tmp_path), hf_config=None)
    loaded.maybe_update_config("a/name-of-the-hub")
    del tensors["model.layers.0.input_layernorm.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(LoadError, match=r"model\.layers\.0\.input_layernorm\.weight"):
        loaded.maybe_update_config(str(tmp_path))


def _tensors(config_json: dict) -> dict[str, torch.Tensor]:
    from wf_formats.families import family_of
    from wf_formats.models.hf_tensors import expected_tensors

    quantization = read_quantization(config_json)
    shapes, _ = expected_tensors(read_config(config_json), quantization, family_of("llama"), True)
    tensors = {}
    for name, shape in shapes.items():
        dtype = torch.int32 if name.endswith("_packed") else torch.float32
        tensors[name] = torch.zeros(shape, dtype=dtype)
    for name in [name for name in shapes if name.endswith("_shape")]:
        rows, words = shapes[name.replace("_shape", "_packed")]
        tensors[name] = torch.tensor([rows, 16 * words])
    return tensors
