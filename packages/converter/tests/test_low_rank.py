"""Checkpoints with low-rank corrections: whatever cannot hold or compute them says so by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import bitnet_arch
from bitnet_arch.low_rank import corrected_linears
from bitnet_arch.master_quantizer import quantize_master
from wf_converter.errors import ExportError
from wf_converter.gguf_export import prepare_gguf
from wf_converter.hf_export import prepare_hf
from wf_converter.inspect import inspect_model
from wf_formats.errors import LoadError
from wf_formats.models import open_model


@pytest.fixture(scope="module", params=["llama-tensor", "llama-group64"])
def corrected(request: pytest.FixtureRequest, checkpoint: Any, tmp_path_factory: Any) -> Path:
    """Folder of a tiny model with corrections of rank 5."""
    loaded = bitnet_arch.load_checkpoint(checkpoint(request.param))
    bitnet_arch.install_low_rank(loaded.model, 5)
    for _, layer in corrected_linears(loaded.model):
        torch.nn.init.normal_(layer.lrc_u)
        torch.nn.init.normal_(layer.lrc_v)
    folder: Path = tmp_path_factory.mktemp("corrected") / request.param
    bitnet_arch.save_checkpoint(loaded.model, loaded.tokenizer, folder, {"stage": "stage2_5", "step": 0})
    return folder


@pytest.mark.parametrize("prepare", [prepare_gguf, prepare_hf])
def test_no_export_leaves_them_out(corrected: Path, prepare: Any) -> None:
    with pytest.raises(ExportError, match=r"low-rank corrections \(rank 5\) .* no export holds them"):
        prepare(corrected)


def test_the_native_engine_names_them(corrected: Path) -> None:
    with pytest.raises(LoadError, match=r"low-rank corrections \(low_rank 5\), which this engine does not"):
        open_model(corrected, quantize_master=quantize_master)


def test_inspect_shows_their_rank(corrected: Path) -> None:
    found = inspect_model(corrected)
    assert found.facts["rank of corrections"] == 5
    assert found.native_engine.startswith("no: ")
    assert "the linears have low-rank corrections" in found.native_engine
