"""What is recognised, what is refused, and that all kinds score alike."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from wrinklefree_eval import torch_loading
from wrinklefree_eval.errors import EvalError, EvalRequestError
from wrinklefree_eval.evaluate import app
from wrinklefree_eval.models import ModelKind, recognise
from wrinklefree_eval.opening import default_context, open_model


def test_kinds_are_recognised(small_hf: Path, small_checkpoint: Path, small_gguf: Path, tmp_path: Path):
    assert recognise(small_gguf) is ModelKind.GGUF
    assert recognise(small_hf) is ModelKind.HF
    assert recognise(small_checkpoint) is ModelKind.CHECKPOINT
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "wrinklefree.json").write_text(json.dumps({"format": 1, "export": {}}))
    assert recognise(tmp_path) is ModelKind.HF
    phases = {"quantization_config": {"quant_method": "wrinklefree_phases"}}
    (tmp_path / "config.json").write_text(json.dumps(phases))
    assert recognise(tmp_path) is ModelKind.NATIVE


def test_what_is_refused(tmp_path: Path, small_gguf: Path):
    with pytest.raises(EvalError, match=r"no model at .*known kinds: a .gguf file; a checkpoint"):
        recognise(tmp_path / "missing")
    with pytest.raises(EvalError, match=r"no config\.json"):
        recognise(tmp_path)
    with pytest.raises(EvalError, match=r"did you mean .*two-layers-f32\.gguf"):
        recognise(small_gguf.parent)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EvalError, match=r"no \*\.safetensors"):
        recognise(tmp_path)
    with pytest.raises(EvalError, match="a file but no GGUF"):
        recognise(tmp_path / "config.json")
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "wrinklefree.json").write_text("{")
    with pytest.raises(EvalError, match=r"wrinklefree\.json is damaged"):
        recognise(tmp_path)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gguf", []),
        ("gguf", ["--describe"]),
        ("gguf", ["--kind", "native"]),
        ("folder", ["--kind", "native"]),
        ("folder", ["--kind", "native", "--describe"]),
    ],
    ids=str,
)
def test_runtimes_that_score_token_by_token_refuse_a_block_diffusion_model(
    diffusion_files_of: dict[str, Path], name: str, options: list[str], tmp_path: Path
):
    text = tmp_path / "text.txt"
    text.write_text("a text")
    arguments = ["--model-path", str(diffusion_files_of[name]), "--text", str(text), *options]
    done = CliRunner(env={"COLUMNS": "400"}).invoke(app, arguments)
    assert done.exit_code == 2, done.output
    assert "is a block-diffusion model (blocks of 8 tokens), which wf eval by " in done.output
    assert "give the checkpoint folder without --kind" in done.output


def test_damaged_models_are_errors(small_hf: Path, small_gguf: Path, tmp_path: Path):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(small_gguf.read_bytes()[:-1_000_000])
    with pytest.raises(EvalError, match="cpp refused"):
        open_model(cut, 64)
    folder = tmp_path / "folder"
    shutil.copytree(small_hf, folder)
    for file in folder.glob("*token*"):
        file.unlink()
    with pytest.raises(EvalError, match="could not load"):
        open_model(folder, 64, num_threads=1)
    (folder / "wrinklefree.json").write_text('{"format": 7}')
    with pytest.raises(EvalError, match="format 7"):
        open_model(folder, 64)


def test_adapters_are_of_gguf_files(small_hf: Path, small_gguf: Path, tmp_path: Path):
    with pytest.raises(EvalRequestError, match=r"belongs to a GGUF file, which .* is not: leave it out"):
        open_model(small_hf, 64, adapter=small_gguf)
    with pytest.raises(EvalError, match="there is no file"):
        open_model(small_gguf, 64, adapter=tmp_path / "adapter.gguf")
    with pytest.raises(EvalError, match=r"refused the adapter .*expect general.type to be 'adapter'"):
        open_model(small_gguf, 64, adapter=small_gguf)


def test_too_long_a_context_is_refused(small_gguf: Path, small_hf: Path):
    for path in (small_gguf, small_hf):
        with pytest.raises(EvalError, match="knows 8192 positions"):
            open_model(path, 8193, num_threads=1)


def test_unregistered_quantization_is_named(small_hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A package can register its quantizer by an entry point."""
    config = json.loads((small_hf / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mystery"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(EvalError, match="quantized by 'mystery'"):
        open_model(tmp_path, 64, num_threads=1)

    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    class Entry:
        def load(self) -> None:
            monkeypatch.setitem(AUTO_QUANTIZER_MAPPING, "mystery", object)

    monkeypatch.setattr(torch_loading, "entries", lambda group: {"mystery": Entry()})
    torch_loading._check_quantization(tmp_path)

    broken = EntryPoint("mystery", "no_such_module", torch_loading.LOADERS)
    monkeypatch.setattr(torch_loading, "entries", lambda group: {"mystery": broken})
    with pytest.raises(EvalError, match="'mystery' of an unknown distribution cannot be loaded"):
        torch_loading._check_quantization(tmp_path)


def test_gguf_and_transformers_agree(small_gguf: Path, small_hf: Path):
    """Same ids, log-probabilities within what llama.cpp's f16 KV cache costs, same bytes."""
    text = "A short text: déjà vu, 猫, and a <|im_start|> that is only text."
    left, right = open_model(small_gguf, 64, num_threads=1), open_model(small_hf, 64)
    ids = left.tokenize(text)
    assert ids == right.tokenize(text)
    assert left.detokenize(ids) == right.detokenize(ids) == text
    assert left.prefix_ids == right.prefix_ids == []
    for start in (1, 5, len(ids) - 1):
        a, b = left.score(ids, start), right.score(ids, start)
        assert a.logprobs.shape == (len(ids) - start,)
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=2e-2)
        np.testing.assert_array_equal(a.is_greedy, b.is_greedy)
    assert left.facts()["num_parameters"] == right.facts()["num_parameters"]
    left.close()


def test_a_checkpoint_scores_as_stock_transformers_does(small_checkpoint: Path):
    """The folder is a BitNetForCausalLM for transformers, BitLinear layers for us."""
    ours = open_model(small_checkpoint, 64)
    stock = open_model(small_checkpoint, 64, kind=ModelKind.HF)
    assert stock.facts()["architecture"] == "BitNetForCausalLM"
    ids = ours.tokenize("The cat sat on the mat, and the dog lay by the fire.")
    difference = np.abs(ours.score(ids).logprobs - stock.score(ids).logprobs)
    assert np.median(difference) < 1e-4
    assert difference.max() < 0.1  # an int8 activation on a tie may round the other way


def test_bad_ranges_are_refused(small_hf: Path):
    model = open_model(small_hf, 8)
    for ids, start in (([1, 2], 0), ([1, 2], 2), (list(range(9)), 1)):
        with pytest.raises(ValueError, match="cannot score"):
            model.score(ids, start)


@pytest.mark.parametrize(
    ("longest", "block", "context"),
    [(8192, None, 1024), (512, None, 512), (8192, 24, 1008), (512, 24, 504), (4096, 2000, 2000)],
)
def test_the_context_that_none_is_given_of_fits(longest, block, context, tmp_path):
    diffusion = {} if block is None else {"block_diffusion": {"block_size": block, "mask_token_id": 1}}
    own = {"base_model_type": "llama", "model_type": "block_diffusion", **diffusion} if diffusion else {}
    settings = {"model_type": "llama", "vocab_size": 512, "max_position_embeddings": longest} | own
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert default_context(tmp_path) == context


def test_the_context_of_a_gguf_file(small_gguf, tmp_path):
    assert default_context(small_gguf) == 1024
    (tmp_path / "damaged.gguf").write_bytes(b"GGUF")
    assert default_context(tmp_path / "damaged.gguf") == 1024  # why it is not read, its runtime says
