"""The quantization method on stand-ins of SGLang's classes; test_parity.py runs SGLang itself."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from wf_formats.errors import LoadError
from wf_formats.models import open_model
from wrinklefree_sglang.names import METHODS

HIDDEN, HEADS, KV = 256, 256, 128
BLOCK = "model.layers.1.self_attn"


def made(quantization: ModuleType, folder: Path, parts: list[int]) -> tuple[Any, Any]:
    """A layer with its parameters created, and its method."""
    settings = json.loads((folder / "config.json").read_text())["quantization_config"]
    beside = {"packed_modules_mapping": {}, "hf_config": object()}  # by SGLang
    config = quantization.TernaryConfig.from_config(settings | beside)
    layer = quantization.LinearBase()
    method = config.get_quant_method(layer, f"{BLOCK}.qkv_proj")
    rows = sum(parts)
    method.create_weights(layer, HIDDEN, parts, HIDDEN, rows, torch.float32, weight_loader=None)
    return layer, method


@pytest.mark.parametrize("method_name", METHODS)
def test_joined_parts_compute_what_the_folder_says(
    method_name: str, exported: dict[str, Path], quantization: ModuleType
) -> None:
    """Tensors come in the order of the file, as SGLang hands them over."""
    folder = exported[method_name]
    layer, method = made(quantization, folder, [HEADS, KV, KV])
    for name, tensor in load_file(folder / "model.safetensors").items():
        shard = name.removeprefix(f"{BLOCK}.")[:1]
        end = name.rpartition(".")[2]
        if name.startswith((f"{BLOCK}.q_proj", f"{BLOCK}.k_proj", f"{BLOCK}.v_proj")):
            parameter = getattr(layer, end)
            parameter.weight_loader(parameter, tensor, shard)
    method.process_weights_after_loading(layer)
    assert not list(layer.parameters()), "SGLang moves and counts parameters"

    stored = open_model(folder)
    weight = torch.cat([torch.from_numpy(stored.matrix(1, part).values()) for part in ("q", "k", "v")])
    x = torch.randint(-127, 128, (5, HIDDEN)).float()
    x[:, 0] = 127  # so that rounding to int8 changes nothing
    bias = torch.arange(weight.shape[0]).float()
    found = method.apply(layer, x, bias)
    # Group scales are kept as float16 times a power of two (2^-11).
    torch.testing.assert_close(
        found, x @ weight.T + bias, rtol=2e-3, atol=2e-3 * (x @ weight.T).abs().max().item()
    )
    assert method.apply(layer, x.bfloat16()).dtype == torch.bfloat16


def test_a_cut_matrix_is_refused(exported: dict[str, Path], quantization: ModuleType) -> None:
    """Tensor parallelism rounds by the maximum of a piece of the inputs."""
    _, method = made(quantization, exported["bitnet"], [HEADS])
    for inputs, rows in ((HIDDEN // 2, HEADS), (HIDDEN, HEADS // 2)):
        with pytest.raises(LoadError, match=r"qkv_proj is cut for tensor parallelism.*--tp-size 1"):
            method.create_weights(nn.Module(), inputs, [rows], HIDDEN, HEADS, torch.float32)


def test_other_kinds_of_compressed_tensors_are_refused(
    exported: dict[str, Path], quantization: ModuleType
) -> None:
    settings = json.loads((exported["compressed-tensors"] / "config.json").read_text())["quantization_config"]
    with pytest.raises(LoadError, match="format is 'float-quantized'"):
        quantization.TernaryConfig.from_config(settings | {"format": "float-quantized"})


def test_embeddings_and_head_stay_floats(exported: dict[str, Path], quantization: ModuleType) -> None:
    settings = json.loads((exported["bitnet"] / "config.json").read_text())["quantization_config"]
    config = quantization.TernaryConfig.from_config(settings)
    assert config.get_quant_method(nn.Embedding(2, 2), "model.embed_tokens") is None
    head = config.get_quant_method(quantization.LinearBase(), "lm_head")
    assert isinstance(head, quantization.UnquantizedLinearMethod)
