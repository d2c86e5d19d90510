"""The packaged SmolLM2-135M, converted, and a trained checkpoint where the environment names one."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch
import transformers

import bitnet_arch
from wf_converter.gguf_export import prepare_gguf
from wf_converter.hf_export import prepare_compressed, prepare_hf
from wf_converter.prove import token_ids
from wf_converter.verify import verify

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
TOKENS = 192


@pytest.fixture(scope="module", params=["tensor", "group64"])
def smollm2(request, packaged_model_dir, tmp_path_factory) -> Path:
    loaded = bitnet_arch.load_checkpoint(packaged_model_dir)
    ids = token_ids(packaged_model_dir, None, 1024)
    scheme = bitnet_arch.quantizer(request.param)
    calibration = torch.tensor(ids).view(2, -1)
    bitnet_arch.convert(loaded.model, bitnet_arch.ConversionConfig(scheme), calibration)
    folder = tmp_path_factory.mktemp("smollm2") / request.param
    bitnet_arch.save_checkpoint(loaded.model, loaded.tokenizer, folder, {"stage": "stage1"})
    return folder


def prove(folder: Path, tmp_path: Path, kind: str, embeddings: str = "f16"):
    prepare_gguf(folder, kind, embeddings).write(tmp_path / "model.gguf")
    found = verify(folder, tmp_path / "model.gguf", token_ids(folder, None, TOKENS))
    assert found.passed, found.problems
    return found


@pytest.mark.parametrize(("kind", "embeddings"), [("auto", "f16"), ("auto", "q8_0"), ("q2_0", "f16")])
def test_gguf_of_the_converted_model(smollm2, tmp_path, kind, embeddings):
    prove(smollm2, tmp_path, kind, embeddings)


@pytest.mark.parametrize("factor", [1.01, 0.99])
def test_a_scale_off_by_one_percent_is_caught(smollm2, tmp_path, with_wrong_scales, factor):
    """By log-probs alone: the mean difference is noise on 30 layers, the fitted scale error is not."""
    export = prepare_gguf(smollm2)
    wrong = with_wrong_scales(export.tensors, lambda stem: True, factor)
    dataclasses.replace(export, tensors=wrong).write(tmp_path / "wrong.gguf")
    found = verify(smollm2, tmp_path / "wrong.gguf", token_ids(smollm2, None, TOKENS))
    assert any("log-probs say that scales are off" in problem for problem in found.problems)


@pytest.mark.parametrize("linear_class", ["bitlinear", "autobitlinear"])
def test_folder_of_the_converted_model(smollm2, tmp_path, linear_class):
    prepare_hf(smollm2, linear_class).write(tmp_path / "out")
    found = verify(smollm2, tmp_path / "out", token_ids(smollm2, None, TOKENS))
    assert found.passed, found.problems


@pytest.mark.parametrize("smollm2", ["group64"], indirect=True)
def test_compressed_tensors_of_the_converted_model(smollm2, tmp_path):
    prepare_compressed(smollm2).write(tmp_path / "out")
    found = verify(smollm2, tmp_path / "out", token_ids(smollm2, None, TOKENS))
    assert found.passed, found.problems
    assert found.judged.max_abs_delta < 1e-3, "its roundings are imitated"


def test_chat_template_survives(smollm2, tmp_path):
    from wf_formats.gguf import open_gguf

    prepare_gguf(smollm2).write(tmp_path / "model.gguf")
    template = open_gguf(tmp_path / "model.gguf").keys["tokenizer.chat_template"]
    assert template == transformers.AutoTokenizer.from_pretrained(smollm2).chat_template


@pytest.mark.parametrize("kind", ["auto", "q2_0"])
def test_trained_checkpoint(tmp_path, kind):
    folder = os.environ.get("WRINKLEFREE_TRAINED_CHECKPOINT")
    if not folder:
        pytest.skip("WRINKLEFREE_TRAINED_CHECKPOINT names no trained checkpoint")
    prove(Path(folder), tmp_path, kind)
