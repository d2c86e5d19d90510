"""Exports of block-diffusion checkpoints: their own names, what holds them, who refuses them, the proof."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from gguf import GGUFReader
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import bitnet_arch
from bitnet_arch.diffusion_model import to_block_diffusion
from wf_converter.card import gguf_card_path
from wf_converter.command import command_line
from wf_converter.errors import ExportError
from wf_converter.export import export
from wf_converter.gguf_export import prepare_gguf
from wf_converter.hf_export import prepare_compressed, prepare_hf
from wf_converter.inspect import inspect_model
from wf_converter.listing import list_models
from wf_converter.prove import token_ids
from wf_converter.verify import verify
from wf_formats.diffusion import MASK_TOKEN, BlockDiffusion, ModelKindError
from wf_formats.errors import UserError
from wf_formats.models import open_model
from wf_formats.tokenizer import read_tokenizer
from wrinklefree_inference import EngineError
from wrinklefree_inference.llamacpp.engine import LlamaCppEngine
from wrinklefree_inference.llamacpp.handles import load_model

DIFFUSION = BlockDiffusion(block_size=8, mask_token_id=512)


@pytest.fixture(scope="module")
def diffusion(checkpoint: Any, tmp_path_factory: Any) -> Callable[[str], Path]:
    """Factory (cached): folder of a block-diffusion model made of a case's."""
    made: dict[str, Path] = {}

    def make(case: str) -> Path:
        if case not in made:
            loaded = bitnet_arch.load_checkpoint(checkpoint(case))
            to_block_diffusion(loaded.model, loaded.tokenizer, DIFFUSION.block_size)
            made[case] = tmp_path_factory.mktemp("diffusion") / case
            bitnet_arch.save_checkpoint(loaded.model, loaded.tokenizer, made[case], {"stage": "dlm"})
        return made[case]

    return make


@pytest.mark.parametrize(
    ("case", "architecture"),
    [
        ("llama-tensor", "block-diffusion-bitnet"),
        ("llama-group64-untied", "block-diffusion-llama"),
        ("qwen2-group128", "block-diffusion-qwen2"),
    ],
)
def test_a_gguf_file_is_proved_and_of_an_architecture_of_its_own(
    diffusion: Any, ids: list[int], tmp_path: Path, case: str, architecture: str
) -> None:
    path = tmp_path / "model.gguf"
    prepare_gguf(diffusion(case)).write(path)
    fields = GGUFReader(path).fields
    assert fields["general.architecture"].contents() == architecture
    stated = {name: fields[f"{architecture}.{name}"].contents() for name in DIFFUSION.to_settings()}
    assert stated == DIFFUSION.to_settings()
    assert not [name for name in fields if name.startswith(architecture.removeprefix("block-diffusion-"))]
    assert open_model(path).config.diffusion == DIFFUSION
    found = verify(diffusion(case), path, ids)
    assert found.passed, found.problems
    assert found.weights.num_matrices == 14
    assert found.runtime == "the native engine"
    assert found.judged.mean_abs_delta < 0.1
    assert json.loads(found.to_json())["export_perplexity"] is None  # it has none
    with pytest.raises(EngineError, match=f"unknown model architecture: '{architecture}'"):
        load_model(path)
    with pytest.raises(ModelKindError, match=r"which llama\.cpp would misread .*--engine native"):
        LlamaCppEngine(path)


def test_a_changed_gguf_file_is_not_proved(diffusion: Any, ids: list[int], tmp_path: Path) -> None:
    folder, path = diffusion("llama-group64"), tmp_path / "model.gguf"
    prepare_gguf(folder).write(path)
    reader = GGUFReader(path, "r+")
    embedding = next(t for t in reader.tensors if t.name == "token_embd.weight")
    embedding.data[-1] = 0  # the mask token's
    reader.data.flush()
    found = verify(folder, path, ids)
    assert "tensors that are not quantized differ (1), the first is token_embd.weight" in found.problems
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    config = json.loads((other / "config.json").read_text())
    config["block_diffusion"]["block_size"] = 16
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExportError, match=r"diffusion is .*'block_size': 8.* there and .*'block_size': 16"):
        verify(other, path, ids)


def test_a_folder_is_proved_in_pytorch_and_of_a_type_of_its_own(
    diffusion: Any, ids: list[int], tmp_path: Path
) -> None:
    folder = diffusion("qwen3-group64")
    prepare_hf(folder).write(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == "block_diffusion"
    assert config["base_model_type"] == "qwen3"
    assert config["quantization_config"]["quant_method"] == "wrinklefree_packed"
    assert open_model(tmp_path / "out").config.diffusion == DIFFUSION
    found = verify(folder, tmp_path / "out", ids)
    assert found.passed, found.problems
    assert found.judged.max_abs_delta < 1e-4
    assert found.export_perplexity is None  # a bound would not be one
    with pytest.raises(ValueError, match="block_diffusion"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    weights = tmp_path / "out" / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.layers.1.mlp.up_proj.weight_scale"] *= 1.02
    save_file(tensors, weights, metadata={"format": "pt"})
    assert not verify(folder, tmp_path / "out", ids).passed


@pytest.mark.parametrize(
    ("prepare", "case", "error"),
    [
        (prepare_hf, "llama-tensor", "the layout of transformers' bitnet.* would misread .*--format gguf"),
        (prepare_compressed, "llama-group64", r"compressed-tensors \(vLLM.* would misread .*--format gguf"),
        (lambda folder: prepare_gguf(folder, "i2_s"), "llama-tensor", "bitnet.cpp computes .* with i2_s"),
    ],
)
def test_layouts_of_others_are_refused_with_the_reason(
    diffusion: Any, prepare: Callable[[Path], Any], case: str, error: str
) -> None:
    with pytest.raises(UserError, match=error):
        prepare(diffusion(case))


def test_blocks_that_no_engine_runs_are_not_exported(diffusion: Any, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(diffusion("llama-group64"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["block_diffusion"]["block_size"] = 64
    (folder / "config.json").write_text(json.dumps(config))
    assert "runs blocks of 1, 2, 4, 8, 16 or 32" in inspect_model(folder).native_engine
    for prepare in (prepare_gguf, prepare_hf):
        with pytest.raises(UserError, match=r"blocks have 64 tokens; .* wf eval takes the checkpoint"):
            prepare(folder)


def test_the_command_writes_a_card_that_says_what_it_is(
    diffusion: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--checkpoint", str(diffusion("llama-group64"))]
    for target in (["--output", "x.gguf"], ["--output", "outputs/x", "--format", "hf"]):
        done = CliRunner().invoke(command_line(export), [*arguments, *target])
        assert done.exit_code == 0, done.output
    for card in (gguf_card_path(Path("x.gguf")), tmp_path / "outputs" / "x" / "README.md"):
        text = card.read_text()
        assert "block-diffusion model, no autoregressive one: it fills in blocks of 8 tokens" in text
        assert "wf chat --model" in text
        assert "llama-cli" not in text
        assert "AutoModelForCausalLM" not in text
    assert inspect_model(Path("x.gguf")).facts["block diffusion"] == str(DIFFUSION)
    assert inspect_model(Path("outputs/x")).facts["block diffusion"] == str(DIFFUSION)
    kinds = {row.path: (row.kind, row.served_by) for row in list_models()}
    assert kinds["x.gguf"] == ("GGUF file, block diffusion", ["native"])
    assert kinds["outputs/x"] == ("exported folder, ternary weights (group64), block diffusion", ["native"])


def test_no_text_becomes_the_mask_token(diffusion: Any, tmp_path: Path) -> None:
    folder, path, text = diffusion("llama-group64"), tmp_path / "model.gguf", tmp_path / "text.txt"
    prepare_gguf(folder).write(path)
    text.write_text(f"a {MASK_TOKEN} b" * 9)
    for ids in (
        read_tokenizer(folder).backend.encode(text.read_text()).ids,
        read_tokenizer(path).backend.encode(text.read_text()).ids,
        token_ids(folder, text, 64),
    ):
        assert max(ids) < DIFFUSION.mask_token_id
    loaded = bitnet_arch.load_checkpoint(folder).tokenizer
    assert np.isin(DIFFUSION.mask_token_id, loaded(text.read_text()).input_ids)  # whoever takes it as it is
    assert torch.tensor(loaded(text.read_text(), split_special_tokens=True).input_ids).max() < 512
