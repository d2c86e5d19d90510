"""Models with the configuration keys of real ones and SentencePiece tokenizers, end to end.

config.json, random weights, tokenizer.json -> conversion -> checkpoint folder -> GGUF, proved in llama.cpp;
the same file in the native engine; Hugging Face export, proved in transformers. Sizes alone are small.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import bitnet_arch
import ternary_kernels as tk
from bitnet_arch.families import UnsupportedModelError
from bitnet_arch.master_quantizer import quantize_master
from ternary_kernels.loading import load_model
from wf_converter.errors import ExportError
from wf_converter.gguf_export import prepare_gguf
from wf_converter.hf_export import prepare_hf
from wf_converter.scores import torch_scores
from wf_converter.verify import verify
from wf_formats.gguf import open_gguf
from wf_formats.models import open_model
from wrinklefree_inference.native.tokenizer import load_tokenizer

CONFIGS = {
    path.stem: json.loads(path.read_text())
    for path in sorted((Path(__file__).parent / "configs" / "sentencepiece").glob("*.json"))
}
"""Keys of published models; sizes, and those of windows, are small."""
CASES = {
    "llama-2": (CONFIGS["llama2"], "llama2", "llama"),
    "tinyllama": (CONFIGS["tinyllama"], "llama2", "llama"),
    "mistral-0.1": (CONFIGS["mistral_v0_1"], "llama2", "granite_swa"),
    "mistral-0.3": (CONFIGS["mistral_v0_3"], "mistral", "llama"),
    "phi-3-mini-4k": (CONFIGS["phi3_mini_4k"], "llama2", "granite_swa"),
    "phi-3-mini-128k": (CONFIGS["phi3_mini_128k"], "llama2", "llama"),
    "phi-4": (CONFIGS["phi4"], "llama2", "llama"),
    "phi-4-mini": (CONFIGS["phi4_mini"], "llama2", None),
    "phi, part of heads": (CONFIGS["phi4"] | {"partial_rotary_factor": 0.75}, "llama2", "llama"),
}
TEXT = "The class statement defines a class object (see section The standard type hierarchy). Naïve café. "


def spread_weights(model):
    """Weights of trained size, so that log-probabilities spread."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if "norm" in name else 0.08 * noise)


@pytest.fixture(scope="module")
def source(sentencepiece_folder, tmp_path_factory):
    """Factory (cached): a dense model's folder, by the name of a case."""
    made = {}

    def make(name):
        if name not in made:
            config, kind, _ = CASES[name]
            folder = tmp_path_factory.mktemp("sources") / name
            strips = {"rstrip": True} if name.startswith("phi-3") else {}
            sentencepiece_folder(
                folder, kind, {"<|endoftext|>": {}} | dict.fromkeys(["<|user|>", "<|end|>"], strips)
            )
            (folder / "config.json").write_text(json.dumps(config))
            torch.manual_seed(0)
            parsed = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
            model = transformers.AutoModelForCausalLM.from_config(parsed, dtype=torch.float32)
            spread_weights(model)
            model.save_pretrained(folder)
            (folder / "config.json").write_text(json.dumps(config))
            made[name] = folder
        return made[name]

    return make


@pytest.fixture(scope="module")
def checkpoint(source, tmp_path_factory):
    """Factory (cached): the folder of a case, converted with groups of 64."""
    made = {}

    def make(name):
        if name not in made:
            loaded = bitnet_arch.load_dense("path", str(source(name)))
            scheme = bitnet_arch.ConversionConfig(bitnet_arch.quantizer("group64"), sub_norm=False)
            bitnet_arch.convert(loaded[0], scheme)
            made[name] = tmp_path_factory.mktemp("checkpoints") / name
            bitnet_arch.save_checkpoint(*loaded, made[name], {"stage": "stage2", "step": 3})
        return made[name]

    return make


@pytest.fixture(scope="module")
def token_ids(checkpoint):
    def make(name):
        return load_tokenizer(checkpoint(name)).encode(TEXT * 3)[:128]

    return make


def check_native(path, checkpoint, ids):
    """The native engine's log-probabilities are those of transformers, with embeddings as the engine rounds
    them."""
    decoder = tk.Decoder(load_model(path, quantize_master), 8, "f32", 1)
    count = len(ids)
    pages = np.arange(-(-count // 32), dtype=np.int32)[None]
    starts, contexts = np.array([0, count], np.int32), np.zeros(1, np.int32)
    logits = decoder.forward(
        np.array(ids, np.int32), starts, contexts, pages, np.arange(count, dtype=np.int32)
    )
    log_probs = torch.from_numpy(logits[:-1]).double().log_softmax(-1)
    ours = log_probs[torch.arange(count - 1), torch.tensor(ids[1:])].numpy()
    model, file = bitnet_arch.load_checkpoint(checkpoint).model, open_model(path, quantize_master)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.from_numpy(file.embedding().values()))
        if (head := file.head()) is not None:
            model.lm_head.weight.copy_(torch.from_numpy(head.values()))
    differences = np.abs(ours - torch_scores(model, ids).logprobs)
    assert differences.mean() < 0.06, differences


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][2]])
def test_gguf_is_proved_and_runs_here(checkpoint, token_ids, tmp_path, name):
    export, path, ids = prepare_gguf(checkpoint(name)), tmp_path / "model.gguf", token_ids(name)
    export.write(path)
    assert open_gguf(path).keys["general.architecture"] == CASES[name][2]
    found = verify(checkpoint(name), path, ids)
    assert found.passed, found.problems
    assert load_tokenizer(path).encode(TEXT) == load_tokenizer(checkpoint(name)).encode(TEXT)
    for runs in (path, checkpoint(name)):
        check_native(runs, checkpoint(name), ids)


@pytest.mark.parametrize("name", CASES)
def test_hugging_face_export_is_proved_and_runs_here(checkpoint, token_ids, tmp_path, name):
    prepare_hf(checkpoint(name)).write(tmp_path / "out")
    found = verify(checkpoint(name), tmp_path / "out", token_ids(name))
    assert found.passed, found.problems
    check_native(tmp_path / "out", checkpoint(name), token_ids(name))


@pytest.mark.parametrize("scheme", ["tensor", "group128"])
def test_other_scales_of_fused_matrices(source, token_ids, tmp_path, scheme):
    """One scale for all parts of a linear, and other groups."""
    model, tokenizer = bitnet_arch.load_dense("path", str(source("phi-4")))
    config = bitnet_arch.ConversionConfig(bitnet_arch.quantizer(scheme), sub_norm=False)
    bitnet_arch.save_checkpoint(
        bitnet_arch.convert(model, config), tokenizer, tmp_path / "c", {"stage": "stage2"}
    )
    prepare_gguf(tmp_path / "c").write(tmp_path / "model.gguf")
    found = verify(tmp_path / "c", tmp_path / "model.gguf", token_ids("phi-4"))
    assert found.passed, found.problems


def test_what_no_architecture_of_llamacpp_computes_is_refused(checkpoint):
    with pytest.raises(ExportError, match=r"longrope multiplies the 75% of each head .* --format hf"):
        prepare_gguf(checkpoint("phi-4-mini"))


def test_longrope_ends_where_the_short_factors_do(checkpoint, tmp_path):
    assert open_model(checkpoint("phi-3-mini-128k"), quantize_master).config.context_tokens == 4096
    prepare_gguf(checkpoint("phi-3-mini-128k")).write(tmp_path / "model.gguf")
    assert open_model(tmp_path / "model.gguf").config.context_tokens == 4096


def test_sub_norms_have_no_place_in_fused_matrices(source):
    model, _ = bitnet_arch.load_dense("path", str(source("phi-4")))
    with pytest.raises(
        UnsupportedModelError, match=r"qkv_proj, .*model\.scheme=group64 model\.sub_norm=false"
    ):
        bitnet_arch.convert(model, bitnet_arch.ConversionConfig(sub_norm=True), torch.tensor([[1, 2, 3]]))
