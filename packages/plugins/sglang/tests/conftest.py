"""Exported tiny models, and SGLang's classes as far as the quantization method touches them."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import bitnet_arch
from wf_converter.hf_export import prepare_compressed, prepare_hf


def converted(model: Any, tokenizer: Any, folder: Path, scheme: str, ids: list[list[int]]) -> Path:
    """The checkpoint of a model with a scale for each `scheme`; with one for a matrix, SubLN too."""
    config = bitnet_arch.ConversionConfig(bitnet_arch.quantizer(scheme))
    bitnet_arch.convert(model, config, torch.tensor(ids))
    bitnet_arch.save_checkpoint(model, tokenizer, folder, {"stage": "stage2"})
    return folder


@pytest.fixture(scope="session")
def exported(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_llama: Callable[..., Any],
    byte_tokenizer: Callable[..., Any],
) -> dict[str, Path]:
    """Folders of tiny models, by quant_method."""
    base = tmp_path_factory.mktemp("exported")
    ids = [[*range(128)]] * 4
    groups = converted(tiny_llama(), byte_tokenizer(), base / "groups", "group64", ids)
    sub_norm = converted(tiny_llama(), byte_tokenizer(), base / "sub_norm", "tensor", ids)
    prepare_compressed(groups).write(base / "compressed")
    prepare_hf(groups).write(base / "packed")
    prepare_hf(sub_norm).write(base / "bitnet")
    return {
        "compressed-tensors": base / "compressed",
        "wrinklefree_packed": base / "packed",
        "bitnet": base / "bitnet",
        "wrinklefree": groups,
    }


@pytest.fixture
def copied(exported: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A folder of its own, to be changed."""
    return lambda method: shutil.copytree(exported[method], tmp_path / method)


def put_in_place(monkeypatch: pytest.MonkeyPatch, places: dict[str, dict[str, Any]]) -> None:
    """Modules of SGLang by name, with contents."""
    for name, contents in places.items():
        for parent in [name.rsplit(".", depth)[0] for depth in range(name.count("."), 0, -1)]:
            if parent not in sys.modules:
                monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
        if name not in sys.modules:
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        vars(sys.modules[name]).update(contents)


@pytest.fixture
def quantization(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """wrinklefree_sglang.quantization, on empty classes in place of SGLang's."""

    class LinearBase(torch.nn.Module): ...

    class Method: ...

    places: dict[str, dict[str, Any]] = {
        "sglang.srt.layers.linear": {"LinearBase": LinearBase},
        "sglang.srt.layers.quantization.base_config": {
            "LinearMethodBase": Method,
            "QuantizationConfig": type("QuantizationConfig", (), {}),
        },
        "sglang.srt.layers.quantization.unquant": {
            "UnquantizedLinearMethod": type("Unquantized", (Method,), {})
        },
    }
    put_in_place(monkeypatch, places)
    monkeypatch.delitem(sys.modules, "wrinklefree_sglang.quantization", raising=False)
    return importlib.import_module("wrinklefree_sglang.quantization")
