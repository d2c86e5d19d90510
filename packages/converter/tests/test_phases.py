"""Complex weights: a folder of phases, proved in the native engine, and what refuses them by name."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import ternary_kernels as tk
from bitnet_arch.master_quantizer import quantize_master
from ternary_kernels.packed import load_packed
from ternary_kernels.packed.settings import CacheSettings
from wf_converter.card import make_record
from wf_converter.card_text import card_of
from wf_converter.checkpoint import open_checkpoint
from wf_converter.errors import ExportError
from wf_converter.gguf_export import prepare_gguf
from wf_converter.hf_export import prepare_compressed, prepare_hf, prepare_phases
from wf_converter.inspect import inspect_model
from wf_converter.reference import ENGINE, reference_model, stored
from wf_converter.verify import verify
from wf_formats import content_records
from wf_formats.errors import LoadError
from wf_formats.families.support import support
from wf_formats.models import open_model
from wf_formats.models.hf_config import read_packed_quantization
from wf_formats.phases import PhaseMatrix

CASES = {"qwen2-group128": "fairy2-w2", "llama-group64": "fairy2-w1"}
"""Model -> scheme: one with biases of q, k and v."""
DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    """The checkpoint of a case, and its folder of phases."""
    made = {}

    def make(case):
        if case not in made:
            folder = checkpoint(case, CASES[case])
            target = tmp_path_factory.mktemp("phases") / "phases"
            prepare_phases(folder).write(target)
            made[case] = folder, target
        return made[case]

    return make


def logits(weights: tk.ModelWeights, ids: list[int]) -> np.ndarray:
    pages = np.arange(-(-len(ids) // tk.PAGE_TOKENS), dtype=np.int32)
    decoder = tk.Decoder(weights, len(pages), num_threads=1, cache_type="f32")
    starts = np.array([0, len(ids)], np.int32)
    rows = np.arange(len(ids), dtype=np.int32)
    return decoder.forward(np.array(ids, np.int32), starts, np.zeros(1, np.int32), pages[None], rows)


@pytest.mark.parametrize("case", CASES)
def test_the_engine_computes_what_pytorch_does(case, exported, ids, tmp_path, monkeypatch):
    """From the folder, from the checkpoint and from a packed model on disk: the same logits."""
    folder, target = exported(case)
    weights = tk.load_model(target)
    assert {layer.down.format for layer in weights.layers} == {f"p{CASES[case][-1]}"}
    found = logits(weights, ids)
    model = reference_model(folder)
    for module in (model.lm_head, model.model.embed_tokens):
        module.weight = torch.nn.Parameter(stored(module.weight, ENGINE), requires_grad=False)
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    errors = np.abs(found - expected).mean(1) / np.abs(expected).mean()
    # Sums in another order flip a rounding of an activation here and there, which all later tokens see.
    assert np.median(errors[:8]) < 2e-4
    assert errors.max() < 0.1
    np.testing.assert_array_equal(logits(tk.load_model(folder, quantize_master), ids), found)
    monkeypatch.setattr(content_records, "GRAIN_S", -60.0)  # what changed just now is not kept
    for _ in range(2):  # kept, found again
        kept = load_packed(target, settings=CacheSettings(tmp_path, 10**9, is_verified=True))
        assert kept.is_mapped
        np.testing.assert_array_equal(logits(kept.weights, ids), found)


@pytest.mark.parametrize("case", CASES)
def test_an_export_is_proved(case, exported, ids):
    folder, target = exported(case)
    proof = verify(folder, target, ids)
    assert proof.passed, proof.problems
    assert (proof.runtime, proof.weights.max_scale_error) == ("the native engine", 0)
    matrix = open_model(target).matrix(1, "down")
    assert isinstance(matrix, PhaseMatrix)
    master = load_file(folder / "model.safetensors")[DOWN].numpy()
    assert np.array_equal(matrix.values(), quantize_master(master, CASES[case]).values())


@pytest.mark.parametrize("name", [DOWN, f"{DOWN}_scale"])
def test_a_wrong_phase_or_scale_is_found(name, exported, ids, tmp_path):
    folder, target = exported("llama-group64")
    shutil.copytree(target, tmp_path / "damaged")
    tensors = load_file(tmp_path / "damaged" / "model.safetensors")
    if name == DOWN:
        tensors[name][3, 5] ^= 1
    else:
        tensors[name][0, 3] *= 1.01
    save_file(tensors, tmp_path / "damaged" / "model.safetensors", metadata={"format": "pt"})
    assert f"codes differ, worst in {DOWN}" in " ".join(verify(folder, tmp_path / "damaged", ids).problems)


def test_what_is_shown_of_a_folder(exported):
    folder, target = exported("qwen2-group128")
    found = inspect_model(target)
    (group,) = [group for group in found.tensors if group.role == "matrices of the blocks"]
    assert (found.native_engine, group.type, 8 * group.num_bytes / group.num_weights) == (
        *("yes", "2-bit phases in U8", 2),
    )
    assert (found.kind, found.facts["scheme"]) == (
        "exported folder, complex weights of 2 bits (fairy2-w2)",
        "fairy2-w2",
    )
    assert inspect_model(folder).native_engine == "yes"
    card = card_of(make_record(open_checkpoint(folder), target))
    assert "weights of 2 bits (complex ones" in card
    assert "four for each plane of phases" in card
    assert "vllm" not in card.lower()
    assert "In transformers" not in card


def test_other_formats_name_the_way_on(exported, checkpoint):
    folder, target = exported("llama-group64")
    for prepare in (prepare_gguf, prepare_hf, prepare_compressed):
        with pytest.raises(
            ExportError, match=r"fairy2-w1 are sums of complex phases.*--format phases .*dense\.py"
        ):
            prepare(folder)
    with pytest.raises(ExportError, match="scheme group64 are real, and phases are of complex ones"):
        prepare_phases(checkpoint("llama-group64"))
    with pytest.raises(LoadError, match="which the native engine alone runs"):
        read_packed_quantization(json.loads((target / "config.json").read_text()))


def test_tensors_of_other_shapes_are_refused_before_anything_is_written(exported, tmp_path):
    shutil.copytree(exported("llama-group64")[0], tmp_path / "wrong")
    settings = json.loads((tmp_path / "wrong" / "config.json").read_text())
    settings["intermediate_size"] += 8
    (tmp_path / "wrong" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ExportError, match=r"_proj.weight has the shape \[512, 256\], expected \[520, 256\]"):
        prepare_phases(tmp_path / "wrong")


def test_no_export_holds_corrections_of_complex_weights(exported, tmp_path):
    shutil.copytree(exported("llama-group64")[0], tmp_path / "corrected")
    meta = json.loads((tmp_path / "corrected" / "wrinklefree.json").read_text())
    meta["conversion"]["low_rank"] = 4
    (tmp_path / "corrected" / "wrinklefree.json").write_text(json.dumps(meta))
    for prepare in (prepare_gguf, prepare_hf, prepare_compressed, prepare_phases):
        with pytest.raises(ExportError, match=r"\(rank 4\) of complex .* no export holds: serve the folder"):
            prepare(tmp_path / "corrected")


def test_what_is_no_folder_of_phases(exported, tmp_path):
    _, target = exported("llama-group64")
    settings = json.loads((target / "config.json").read_text())
    original = load_file(target / "model.safetensors")
    damaged = {
        "scheme 'group64' is unknown; known are fairy2-w1, fairy2-w2": ({"scheme": "group64"}, {}),
        "has the shape .* expected": ({"scheme": "fairy2-w2"}, {}),
        "_scale: a scale is nan": ({}, {f"{DOWN}_scale": original[f"{DOWN}_scale"] * float("nan")}),
        f"{DOWN}_scale: a scale is -0": ({}, {f"{DOWN}_scale": -original[f"{DOWN}_scale"]}),
        "a scale is 1e.38, outside of 0 to 65504": ({}, {f"{DOWN}_scale": torch.full((1, 4), 1e38)}),
        "quantization_config.rotation is 'hadamard', which": ({"rotation": "hadamard"}, {}),
        "is I8, expected U8": ({}, {DOWN: original[DOWN].to(torch.int8)}),
    }
    for number, (message, (quantization, tensors)) in enumerate(damaged.items()):
        folder = tmp_path / str(number)
        shutil.copytree(target, folder)
        changed = settings | {"quantization_config": settings["quantization_config"] | quantization}
        (folder / "config.json").write_text(json.dumps(changed))
        save_file(original | tensors, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(LoadError, match=message):
            tk.load_model(folder)


def test_no_fused_linears_and_no_sub_norm(checkpoint):
    config = json.loads((checkpoint("phi3-group64") / "config.json").read_text())
    for sub_norm in (False, True):
        reasons = support(config, "fairy2-w2", sub_norm).values()
        assert all("pair rows of one with rows of another" in reason for reason in reasons)
    config = json.loads((checkpoint("llama-group64") / "config.json").read_text())
    found = support(config, "fairy2-w2", True)
    assert found["native"] is None
    assert "SubLN with complex weights has no packed form" in found["hf"]
    assert found["gguf"] == found["hf"]  # and no word of --format phases
    odd = {"intermediate_size": 516}
    assert "down_proj.weight: rows of 516 weights" in support(config | odd, "fairy2-w2", False)["hf"]
    assert support(config | odd, "fairy2-w2", False)["native"] is None
    narrow = config | {"hidden_size": 72, "head_dim": 64}
    reasons = support(narrow, "fairy2-w2", False).values()
    assert all("rows of 72 weights divide neither by 32 nor by 16" in reason for reason in reasons)
    assert support(config, "fairy2-w2", False)["hf"] is None


def test_an_axis_or_a_matrix_without_weights_is_taken(exported, tmp_path):
    """Its scale is 0."""
    _, target = exported("llama-group64")
    folder = shutil.copytree(target, tmp_path / "zero")
    original = load_file(target / "model.safetensors")
    save_file(original | {f"{DOWN}_scale": torch.zeros(1, 4)}, folder / "model.safetensors")
    assert not open_model(folder).matrix(1, "down").values().any()
    assert tk.load_model(folder).layers[1].down.format == "p1"


def test_more_inputs_than_a_sum_holds(checkpoint):
    """Complex weights have no groups, so that none are named as the remedy."""
    config = json.loads((checkpoint("llama-group64") / "config.json").read_text())
    for target, reason in support(config | {"intermediate_size": 1 << 17}, "fairy2-w2", False).items():
        assert "rows of 131072 inputs; integer sums of complex weights hold 131071" in reason, target
        assert "no groups: a real scheme has some" in reason
    with pytest.raises(ValueError, match="phases: rows of 131072 inputs; integer sums of complex"):
        tk.pack_phases(np.zeros((1, 2, 1, 1 << 16), np.uint8), np.ones((1, 2, 2), np.float32))
