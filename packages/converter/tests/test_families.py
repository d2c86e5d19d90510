"""Every family through the whole chain: conversion, GGUF, Hugging Face folder, native engine, llama.cpp.

configs/ holds config.json files with the keys (and spellings) of published models, sizes apart. Each becomes
a random model, converted with scales per group; its log-probs in PyTorch are compared with those of the
native engine on the checkpoint, of llama.cpp and the native engine on the GGUF export, and of transformers
on the packed folder. 96 tokens are four windows of the models that have one.

Honest differences come of int8 roundings that flip (test_parity_gguf.py has the sizes): those of a runtime
that turns, scales or hides something else are nats.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import bitnet_arch
import ternary_kernels as tk
from bitnet_arch.master_quantizer import quantize_master
from wf_converter.gguf_export import prepare_gguf
from wf_converter.hf_export import prepare_compressed, prepare_hf
from wf_converter.reference import COMPRESSED, emulate, reference_model
from wf_converter.runtimes import load_export, tensor_types, types_of
from wf_converter.scores import Difference, llamacpp_scores, torch_scores
from wf_formats.families import family_of
from wf_formats.families.support import support
from wf_formats.gguf import open_gguf
from wrinklefree_inference import TokenScores

CONFIGS = {path.stem: path for path in sorted((Path(__file__).parent / "configs").glob("*.json"))}
ARCHS = {
    "llama2": "llama",
    "llama3_2": "llama",
    "smollm2": "llama",
    "llama_biases": "llama",
    "linear_llama2": "llama",
    "dynamic_llama2": "llama",
    "yarn_llama2": "llama",
    "mistral_v0_1": "granite_swa",
    "mistral_v0_3": "llama",
    "qwen2_5": "qwen2",
    "qwen2_5_yarn": "qwen2",
    "qwen2_windows": "granite_swa",
    "qwen3": "qwen3",
    "smollm3": "smollm3",
    "smollm3_pattern": "granite_swa",
    "gemma3_1b": "gemma3",
    "gemma3_4b_text": "gemma3",
}
TOLERANCE = 0.02
GEMMA_TOLERANCE = 0.04
"""llama.cpp computes GELU in fp16: measured 0.024 over 7 layers."""
NATIVE_TOLERANCE = 0.08
"""The engine's embeddings have 8 bits: measured 0.02 to 0.06."""
WHOLE_SCALES = ["qwen2_5", "mistral_v0_1", "smollm3", "gemma3_4b_text", "llama_biases"]
"""One scale for a matrix where llama.cpp reads no tensor for it: fp16 in the blocks costs up to 0.03."""
DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
MUTATIONS = {
    "window": ("mistral_v0_1", {"sliding_window": None}),
    "window by one": ("mistral_v0_1", {"sliding_window": 25}),
    "windows of some layers": ("qwen2_windows", {"layer_types": ["full_attention"] * 3}),
    "windows and positions": ("smollm3_pattern", {"no_rope_layers": [1, 1, 0]}),
    "yarn": ("yarn_llama2", {"rope_parameters": DEFAULT_ROPE}),
    "linear": ("linear_llama2", {"rope_parameters": DEFAULT_ROPE}),
    "layers without positions": ("smollm3", {"no_rope_layers": [1] * 5}),
    "period of windows": ("gemma3_1b", {"layer_types": ["sliding_attention"] * 7}),
    "scale of scores": ("gemma3_1b", {"query_pre_attn_scalar": 32}),
}
"""Settings of a checkpoint that decide its answers; changed, they must be seen."""


@pytest.fixture(scope="module")
def converted(tmp_path_factory, tiny_tokenizer, spread, ids):
    """Factory (cached): the checkpoint folder of a configuration."""
    made: dict[tuple[str, str], Path] = {}

    def make(name: str, scheme: str = "group64") -> Path:
        if (name, scheme) not in made:
            source = tmp_path_factory.mktemp(name)
            (source / "config.json").write_bytes(CONFIGS[name].read_bytes())
            torch.manual_seed(0)
            model = transformers.AutoModelForCausalLM.from_config(
                transformers.AutoConfig.from_pretrained(source), dtype=torch.float32
            ).eval()
            spread(model)
            take_off_gains(model)
            config = bitnet_arch.ConversionConfig(bitnet_arch.quantizer(scheme), sub_norm=False)
            bitnet_arch.convert(model, config, torch.tensor([ids] * 6))
            made[name, scheme] = source / "checkpoint"
            bitnet_arch.save_checkpoint(
                model, tiny_tokenizer("qwen2"), made[name, scheme], {"stage": "stage2"}
            )
        return made[name, scheme]

    return make


def take_off_gains(model) -> None:
    """Gains that a family stores less a number, of ordinary size."""
    offset = family_of(model.config.model_type).norm_offset
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "norm" in key:
                parameter.sub_(offset)


def native_scores(path: Path, ids: list[int]) -> TokenScores:
    decoder = tk.Decoder(tk.load_model(path, quantize_master), 8, "f32", num_threads=1)  # type: ignore[arg-type]
    tokens = np.array(ids[:-1], np.int32)
    rows = np.arange(len(tokens), dtype=np.int32)
    starts, pages = np.array([0, len(tokens)], np.int32), np.arange(8, dtype=np.int32)[None]
    logits = decoder.forward(tokens, starts, np.zeros(1, np.int32), pages, rows)
    table = torch.from_numpy(logits).double().log_softmax(-1)
    targets = torch.tensor(ids[1:])[:, None]
    return TokenScores(np.asarray(ids[1:]), table.gather(1, targets)[:, 0].numpy(), table.argmax(-1).numpy())


def agree(found: Difference, tolerance: float = TOLERANCE) -> bool:
    return found.mean_abs_delta < tolerance and found.top1_agreement > 0.9


def test_every_configuration_has_an_expectation():
    assert CONFIGS.keys() == ARCHS.keys()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_facts_promise_the_whole_chain_for_published_keys(name):
    assert not any(support(json.loads(CONFIGS[name].read_text()), "group64", False).values())


@pytest.mark.parametrize("name", CONFIGS)
def test_checkpoints_and_packed_folders_answer_alike(name, converted, ids, tmp_path):
    folder = converted(name)
    expected = torch_scores(reference_model(folder), ids)
    native = Difference.between(expected, native_scores(folder, ids))
    assert agree(native, NATIVE_TOLERANCE), native
    prepare_hf(folder).write(tmp_path / "packed")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "packed").eval()
    packed = Difference.between(expected, torch_scores(loaded, ids))
    assert packed.max_abs_delta < 1e-4, packed
    again = Difference.between(native_scores(folder, ids), native_scores(tmp_path / "packed", ids))
    assert again.max_abs_delta < 1e-4, again


@pytest.mark.parametrize("name", ["mistral_v0_1", "smollm3", "gemma3_1b"])
def test_compressed_tensors_folders_answer_alike(name, converted, ids, tmp_path):
    """Windows, layers without positions, scaled embeddings; other families have tests of their own."""
    folder = converted(name)
    prepare_compressed(folder).write(tmp_path / "compressed")
    model = reference_model(folder)
    expected = torch_scores(emulate(model, types_of(model, COMPRESSED), False), ids)
    found = Difference.between(expected, torch_scores(load_export(tmp_path / "compressed"), ids))
    assert found.max_abs_delta < 1e-4, found
    again = Difference.between(native_scores(folder, ids), native_scores(tmp_path / "compressed", ids))
    assert again.max_abs_delta < 1e-4, again


@pytest.mark.parametrize("name", CONFIGS)
def test_gguf_files_answer_alike(name, converted, ids, tmp_path):
    folder, path = converted(name), tmp_path / "model.gguf"
    export = prepare_gguf(folder)
    assert export.architecture == ARCHS[name]
    export.write(path)
    model = reference_model(folder)
    as_trained = torch_scores(model, ids)
    native = Difference.between(as_trained, native_scores(path, ids))
    assert agree(native, NATIVE_TOLERANCE), native
    reference = torch_scores(emulate(model, tensor_types(model, open_gguf(path))), ids)
    found = Difference.between(reference, llamacpp_scores(path, ids))
    assert agree(found, GEMMA_TOLERANCE if "gemma" in name else TOLERANCE), found


@pytest.mark.parametrize("name", WHOLE_SCALES)
def test_one_scale_for_a_matrix_reaches_llamacpp_in_every_architecture(name, converted, ids, tmp_path):
    """Its tensor `.scale` is read by some architectures alone; ignored, answers differ by nats."""
    folder, path = converted(name, "tensor"), tmp_path / "model.gguf"
    prepare_gguf(folder).write(path)
    model = reference_model(folder)
    reference = torch_scores(emulate(model, tensor_types(model, open_gguf(path))), ids)
    found = Difference.between(reference, llamacpp_scores(path, ids))
    assert agree(found, 2 * TOLERANCE), found


@pytest.mark.parametrize("case", MUTATIONS)
def test_a_changed_setting_is_seen(case, converted, ids, tmp_path):
    name, change = MUTATIONS[case]
    expected = native_scores(converted(name), ids)
    wrong = shutil.copytree(converted(name), tmp_path / "wrong")
    settings = json.loads((wrong / "config.json").read_text())
    (wrong / "config.json").write_text(json.dumps(settings | change))
    found = Difference.between(expected, native_scores(wrong, ids))
    assert found.mean_abs_delta > 2 * TOLERANCE, found


NO_WINDOWS = {
    "none": {"sliding_window": None, "use_sliding_window": False},
    "not used": {"use_sliding_window": False},
    "over the whole context": {"sliding_window": 1024},
}
SCORE = """
import json, sys
from pathlib import Path
from wrinklefree_inference.llamacpp.scorer import GgufScorer
ids = json.loads(sys.argv[2])
options = {"num_threads": 1, "cache_type": "f32", "flash_attention": False}
with GgufScorer(Path(sys.argv[1]), len(ids), **options) as scorer:
    scores = scorer.score(ids)
print(json.dumps([scores.logprobs.tolist(), scores.best.tolist()]))
"""
"""In a process of its own: llama.cpp aborts the whole process where no layer has a window."""


@pytest.mark.parametrize("case", NO_WINDOWS)
def test_an_architecture_of_windows_holds_models_without_any(case, converted, ids, tmp_path):
    folder, path = shutil.copytree(converted("smollm3_pattern"), tmp_path / "c"), tmp_path / "model.gguf"
    settings = json.loads((folder / "config.json").read_text())
    settings.pop("layer_types", None)  # written from the windows there were
    (folder / "config.json").write_text(json.dumps(settings | NO_WINDOWS[case]))
    export = prepare_gguf(folder)
    assert export.architecture == "granite_swa"
    export.write(path)
    command = [sys.executable, "-c", SCORE, str(path), json.dumps(ids)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr[-2000:]
    logprobs, best = json.loads(ended.stdout.splitlines()[-1])
    model = reference_model(folder)
    reference = torch_scores(emulate(model, tensor_types(model, open_gguf(path))), ids)
    scores = TokenScores(np.asarray(ids[1:]), np.asarray(logprobs), np.asarray(best))
    assert agree(found := Difference.between(reference, scores)), found
