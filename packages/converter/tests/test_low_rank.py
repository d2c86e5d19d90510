"""Checkpoints with low-rank corrections: exported to GGUF with an adapter, refused where nothing holds them.

The proof's reference makes llama.cpp's roundings (wf_converter.reference); here plain PyTorch is asked too.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import bitnet_arch
from bitnet_arch.low_rank import corrected_linears
from wf_converter.command import command_line
from wf_converter.errors import ExportError
from wf_converter.export import export
from wf_converter.gguf_export import prepare_gguf
from wf_converter.hf_export import prepare_hf
from wf_converter.inspect import inspect_model
from wf_converter.publish import publish
from wf_converter.reference import reference_model
from wf_converter.scores import Difference, llamacpp_scores, torch_scores
from wf_converter.verify import verify
from wf_formats.errors import RequestError
from wrinklefree_inference import EngineError
from wrinklefree_inference.engines.base import Sampling
from wrinklefree_inference.engines.native import NativeEngine
from wrinklefree_inference.llamacpp.engine import LlamaCppEngine
from wrinklefree_inference.llamacpp.server import start_server
from wrinklefree_inference.options import EngineOptions, ListenOptions, LlamaCppServerOptions

NATIVE_TOLERANCE = 0.12
"""Mean difference with a float16 cache and embeddings in 8 bits; 0.06 to 0.09, without corrections too."""
AS_TRAINED_TOLERANCE = 0.2
"""Mean difference to PyTorch without llama.cpp's roundings, as for models without corrections."""
RANK = 5


@pytest.fixture(scope="module")
def corrected(checkpoint: Any, tmp_path_factory: Any) -> Any:
    """Factory (cached): folder of a tiny model with corrections that move its log-probs by nats."""
    made: dict[str, Path] = {}

    def make(case: str) -> Path:
        if case not in made:
            loaded = bitnet_arch.load_checkpoint(checkpoint(case))
            bitnet_arch.install_low_rank(loaded.model, RANK)
            generator = torch.Generator().manual_seed(3)
            for _, layer in corrected_linears(loaded.model):
                for factor in (layer.lrc_u, layer.lrc_v):
                    torch.nn.init.normal_(factor, std=0.15, generator=generator)
            made[case] = tmp_path_factory.mktemp("corrected") / case
            record = {"stage": "stage2_5", "step": 0}
            bitnet_arch.save_checkpoint(loaded.model, loaded.tokenizer, made[case], record)
        return made[case]

    return make


@pytest.fixture
def exported(corrected: Any, tmp_path: Path) -> Any:
    """Factory: model and adapter files of a case."""

    def make(case: str) -> tuple[Path, Path]:
        files = tmp_path / "model.gguf", tmp_path / "adapter.gguf"
        prepare_gguf(corrected(case)).write(files[0], adapter=files[1])
        return files

    return make


@pytest.mark.parametrize(
    ("case", "architecture"),
    [
        ("llama-tensor", "bitnet"),
        ("llama-group64", "llama"),
        ("mistral-tensor", "bitnet"),
        ("qwen2-group128", "qwen2"),
        ("qwen3-group64", "qwen3"),
        ("phi3-group64", "llama"),
    ],
)
def test_llamacpp_computes_them(
    corrected: Any, exported: Any, ids: list[int], case: str, architecture: str
) -> None:
    model, adapter = exported(case)
    assert prepare_gguf(corrected(case)).architecture == architecture
    found = verify(corrected(case), model, ids, adapter=adapter)
    assert found.passed, found.problems
    assert found.judged.mean_abs_delta < 0.03
    plain = torch_scores(reference_model(corrected(case)), ids)
    assert (
        Difference.between(plain, llamacpp_scores(model, ids, adapter)).mean_abs_delta < AS_TRAINED_TOLERANCE
    )
    without = bitnet_arch.load_checkpoint(corrected(case)).model
    for _, layer in corrected_linears(without):
        torch.nn.init.zeros_(layer.lrc_u)
    assert Difference.between(plain, torch_scores(without, ids)).mean_abs_delta > 0.5


@pytest.mark.parametrize("case", ["llama-tensor", "llama-group64", "qwen2-group128", "phi3-group64"])
def test_the_native_engine_computes_them(corrected: Any, exported: Any, ids: list[int], case: str) -> None:
    model, adapter = exported(case)
    plain = torch_scores(reference_model(corrected(case)), ids)
    for path, beside in ((corrected(case), None), (model, adapter)):
        with NativeEngine(path, EngineOptions(128, 1, beside)) as engine:
            assert Difference.between(plain, engine.score(ids)).mean_abs_delta < NATIVE_TOLERANCE
    with pytest.raises(EngineError, match=r"the adapter that was exported beside it, --adapter FILE$"):
        NativeEngine(model)
    with pytest.raises(EngineError, match=r"and this one with --adapter$"):
        NativeEngine(adapter)


def test_llamacpps_server_computes_them(exported: Any, ids: list[int]) -> None:
    model, adapter = exported("llama-group64")
    with pytest.raises(EngineError, match="--adapter FILE"):
        start_server(LlamaCppServerOptions(model, ListenOptions(port=0)))
    with LlamaCppEngine(model, EngineOptions(128, 1, adapter)) as engine:
        prompts = [engine.scorer.detokenize(ids[:length]) for length in range(10, 60)]
        wanted = [engine.score([*engine.tokenize(prompt), 0]).best[-1] for prompt in prompts]
        texts = map(engine.scorer.detokenize, ([token] for token in wanted))
        compared = [
            pair for pair in zip(prompts, texts, strict=True) if pair[1].isalnum() and pair[1].isascii()
        ]
        assert len(compared) >= 5
        for prompt, text in compared[:5]:
            assert engine.complete(prompt, Sampling(max_tokens=1, temperature=0.0)).text() == text


def test_factors_off_by_one_percent_are_named(corrected: Any, ids: list[int], tmp_path: Path) -> None:
    prepared = prepare_gguf(corrected("llama-group64"))
    changed = [
        dataclasses.replace(plan, produce=lambda plan=plan: plan.produce() * np.float32(1.01))
        if plan.name == "blk.1.attn_v.weight.lora_b"
        else plan
        for plan in prepared.corrections
    ]
    model, adapter = tmp_path / "model.gguf", tmp_path / "adapter.gguf"
    dataclasses.replace(prepared, corrections=changed).write(model, adapter=adapter)
    found = verify(corrected("llama-group64"), model, ids, adapter=adapter)
    assert found.wrong_corrections == ["blk.1.attn_v.weight"]
    assert not found.passed
    assert "the first of blk.1.attn_v.weight" in found.problems[0]


def test_rows_in_another_order_show_in_the_log_probs(
    corrected: Any, ids: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, adapter = tmp_path / "model.gguf", tmp_path / "adapter.gguf"
    with monkeypatch.context() as patch:
        patch.setattr("wf_converter.gguf_adapter.permute_rows", lambda arch, name, array, checkpoint: array)
        prepare_gguf(corrected("llama-group64")).write(model, adapter=adapter)
    found = verify(corrected("llama-group64"), model, ids, adapter=adapter)
    assert found.judged.mean_abs_delta > found.tolerance
    assert len(found.wrong_corrections) == 4


def test_a_model_is_not_run_without_its_adapter(
    corrected: Any, exported: Any, checkpoint: Any, ids: list[int], tmp_path: Path
) -> None:
    model, adapter = exported("llama-group64")
    needs = r"low-rank corrections \(rank 5\) in a file of their own: give the adapter"
    with pytest.raises(ExportError, match=needs):
        llamacpp_scores(model, ids)
    with pytest.raises(ExportError, match=needs):
        verify(corrected("llama-group64"), model, ids)
    other = tmp_path / "other.gguf"
    prepare_gguf(checkpoint("llama-group64")).write(other)
    with pytest.raises(
        ExportError, match="rank of its low-rank corrections is 5, and the export has no adapter"
    ):
        verify(corrected("llama-group64"), other, ids)
    with pytest.raises(ExportError, match="it was exported from another checkpoint"):
        verify(checkpoint("llama-group64"), other, ids, adapter=adapter)
    with pytest.raises(ExportError, match="it holds an adapter, no model"):
        verify(checkpoint("llama-group64"), adapter, ids)


def test_where_they_go_must_be_said(corrected: Any, checkpoint: Any, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"corrections \(rank 5\).* say where with --adapter FILE"):
        prepare_gguf(corrected("llama-group64")).write(tmp_path / "model.gguf")
    with pytest.raises(RequestError, match="has no low-rank corrections: leave --adapter"):
        prepare_gguf(checkpoint("llama-group64")).write(tmp_path / "m.gguf", adapter=tmp_path / "a.gguf")
    assert not list(tmp_path.iterdir())


def test_neither_file_appears_where_one_fails(corrected: Any, tmp_path: Path) -> None:
    def fail(tensor: Any) -> None:
        if tensor.name == "output_norm.weight":
            raise KeyboardInterrupt

    prepared = prepare_gguf(corrected("llama-group64"))
    with pytest.raises(KeyboardInterrupt):
        prepared.write(tmp_path / "model.gguf", fail, tmp_path / "adapter.gguf")
    assert not list(tmp_path.iterdir())


def test_no_packed_folder_holds_them(corrected: Any) -> None:
    with pytest.raises(
        ExportError, match=r"\(rank 5\).*--format gguf --adapter.*or serve the folder as it is"
    ):
        prepare_hf(corrected("llama-tensor"))


def test_a_missing_factor_is_named(corrected: Any, tmp_path: Path) -> None:
    shutil.copytree(corrected("qwen2-group128"), tmp_path / "damaged")
    weights = tmp_path / "damaged" / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.layers.1.mlp.up_proj.lrc_v"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ExportError, match=r"layers\.1\.mlp\.up_proj\.lrc_v is missing, expected \[256, 5\]"):
        prepare_gguf(tmp_path / "damaged")


def test_the_commands(corrected: Any, tmp_path: Path) -> None:
    def run(command: Any, *arguments: object) -> Any:
        return CliRunner().invoke(command_line(command), list(map(str, arguments)))

    model, adapter = tmp_path / "model.gguf", tmp_path / "adapter.gguf"
    request = ("--checkpoint", corrected("qwen2-group128"), "--output", model)
    refused = run(export, *request)
    assert refused.exit_code == 2
    assert "say where with --adapter FILE" in " ".join(refused.output.split())
    done = run(export, *request, "--adapter", adapter, "--verify", "--tokens", 64)
    assert done.exit_code == 0, done.output
    # A block: q, o 256 x 256, k, v 128 x 256, gate, up 512 x 256, down 256 x 512; 32 bits a number.
    bits = 32 * RANK * (2 * 512 + 2 * 384 + 3 * 768) / (2 * 256 * 256 + 2 * 128 * 256 + 3 * 512 * 256)
    assert f"corrections of rank {RANK}: {bits:.2f} bits a weight more, in {adapter}" in done.output
    proof = json.loads(done.output[done.output.index("{") : done.output.rindex("}") + 1])
    assert proof["passed"] is True
    shown = run(publish, model, "me/model", "--license", "mit", "--dry-run").stdout
    assert "hf download me/model model.gguf adapter.gguf --local-dir ." in shown
    assert f"{adapter.stat().st_size:,}  adapter.gguf" in shown
    adapter.rename(tmp_path / "moved.gguf")
    assert run(publish, model, "me/model", "--license", "mit", "--dry-run").exit_code == 2
    (tmp_path / "moved.gguf").rename(adapter)
    assert run(export, *request, "--adapter", adapter, "--overwrite", "--format", "hf").exit_code == 2
    assert run(export, *request, "--adapter", model, "--overwrite").exit_code == 2


def test_inspect_shows_their_rank(corrected: Any, exported: Any) -> None:
    model, adapter = exported("llama-group64")
    folder = inspect_model(corrected("llama-group64"))
    assert folder.facts["rank of corrections"] == RANK
    assert folder.native_engine.startswith("yes")
    assert inspect_model(model).facts["rank of corrections"] == RANK
    assert "--adapter FILE" in inspect_model(model).native_engine
    found = inspect_model(adapter)
    assert (found.kind, found.facts["rank of corrections"]) == ("GGUF adapter", RANK)
    assert "it holds an adapter, no model" in found.native_engine
