"""What the plug-in makes known to SGLang on a GPU, on stand-ins of its classes; no GPU is asked for."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from wf_formats.errors import LoadError
from wf_formats.models.hf_compressed import quantization_config

from .conftest import put_in_place

pytest.importorskip("triton", reason="Triton comes with PyTorch for CUDA")
TERNARY = quantization_config("group64")
OWN = object()
"""SGLang's method for compressed-tensors."""


class Platform:
    """SGLang's for CUDA."""

    loaded = 0

    def post_load_model(self, model: torch.nn.Module) -> None:
        self.loaded += 1


class Served:
    """SGLang's arguments."""

    model_path = ""


@pytest.fixture
def sglang(quantization: ModuleType, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """gpu: wrinklefree_sglang.gpu; methods, choices, models: SGLang's tables; platform."""
    methods: dict[str, Any] = {"compressed-tensors": OWN, "fp8": object}
    choices: list[str] = []
    models = SimpleNamespace(models={"LlamaForCausalLM": object})
    put_in_place(
        monkeypatch,
        {
            "sglang.srt.arg_groups.choices": {"add_quantization_method_choices": choices.extend},
            "sglang.srt.layers.quantization": {"QUANTIZATION_METHODS": methods},
            "sglang.srt.models.registry": {"ModelRegistry": models},
            "sglang.srt.runtime_context": {"get_server_args": Served},
        },
    )
    bitnet = ModuleType("wrinklefree_sglang.models.bitnet")
    vars(bitnet)["BitNetForCausalLM"] = OWN
    monkeypatch.setitem(sys.modules, bitnet.__name__, bitnet)
    monkeypatch.delitem(sys.modules, "wrinklefree_sglang.gpu", raising=False)
    gpu = importlib.import_module("wrinklefree_sglang.gpu")
    platform = type("CudaPlatform", (Platform,), {})
    return SimpleNamespace(gpu=gpu, methods=methods, choices=choices, models=models.models, platform=platform)


def test_what_sglang_lacks_is_added_and_the_rest_stays(sglang: SimpleNamespace) -> None:
    sglang.gpu.register_on_gpu(sglang.platform)
    ours = {"wrinklefree", "wrinklefree_packed", "bitnet"}
    assert {name for name, made in sglang.methods.items() if made is sglang.gpu.GpuTernaryConfig} == ours
    assert sglang.methods["compressed-tensors"] is OWN
    assert set(sglang.choices) == ours
    assert set(sglang.models) == {"LlamaForCausalLM", "BitNetForCausalLM"}


@pytest.mark.parametrize(
    ("settings", "asked_for", "name"),
    [
        (TERNARY | {"packed_modules_mapping": {}, "hf_config": None}, None, "wrinklefree"),
        (TERNARY, "wrinklefree", "wrinklefree"),
        (TERNARY, "humming", None),
        (TERNARY | {"format": "float-quantized"}, None, None),
        ({"quant_method": "bitnet"}, None, None),  # a name that SGLang has by now
        ({"quant_method": "fp8"}, None, None),
    ],
)
def test_ternary_folders_are_taken_from_sglangs_own_method(
    settings: dict[str, Any], asked_for: str | None, name: str | None, sglang: SimpleNamespace
) -> None:
    assert sglang.gpu.GpuTernaryConfig.override_quantization_method(settings, asked_for) == name


def test_gpu_and_folder_are_checked_before_anything_is_loaded(
    sglang: SimpleNamespace, exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[torch.device] = []
    monkeypatch.setattr("ternary_kernels.gpu.linear.check_device", asked.append)
    make = sglang.gpu.GpuTernaryConfig.from_config
    monkeypatch.setattr(Served, "model_path", str(exported["compressed-tensors"]))
    assert make(TERNARY).quantization.group_size == 64
    assert asked == [torch.device("cuda")]
    monkeypatch.setattr(Served, "model_path", str(exported["wrinklefree"]))
    with pytest.raises(LoadError, match="export the model by"):
        make(TERNARY)


def test_every_loaded_ternary_model_is_compared_with_its_folder(
    sglang: SimpleNamespace, exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = exported["bitnet"]
    monkeypatch.setattr(Served, "model_path", str(folder))
    sglang.gpu.register_on_gpu(sglang.platform)
    platform, model = sglang.platform(), torch.nn.Linear(2, 2)
    platform.post_load_model(model)  # another model: SGLang's affair
    settings = json.loads((folder / "config.json").read_text())["quantization_config"]
    config = sglang.gpu.GpuTernaryConfig(sglang.gpu.served_quantization(settings))
    linear = sys.modules["sglang.srt.layers.linear"].LinearBase()
    model.quant_method = config.get_quant_method(linear, "model.layers.0.mlp.down_proj")
    with pytest.raises(LoadError, match=r"SGLang's class of the model lacks model\."):
        platform.post_load_model(model)
    assert platform.loaded == 2
