"""Models of 4 bits: GGUF proved in llama.cpp, compressed-tensors proved in transformers, and refusals.

Scales and offsets are such that float16 holds them, so weights come back equal to the bit. What is left are
llama.cpp's roundings of activations, which the reference makes too.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from gguf import GGUFReader, quants
from safetensors.torch import load_file

import ternary_kernels as tk
from bitnet_arch import bit_linears
from bitnet_arch.activations import Unrounded, round_tokens
from bitnet_arch.master_quantizer import quantize_master
from ternary_kernels.loading import INPUT_GROUP, load_model
from wf_converter.card import make_record
from wf_converter.card_text import card_of
from wf_converter.checkpoint import open_checkpoint
from wf_converter.errors import ExportError
from wf_converter.gguf_export import prepare_gguf
from wf_converter.hf_export import prepare_compressed, prepare_hf
from wf_converter.inspect import inspect_model
from wf_converter.readback import HfWeights, check_weights
from wf_converter.reference import reference_model
from wf_converter.runtimes import load_export
from wf_converter.verify import verify
from wf_formats.families import family_of
from wf_formats.models import open_model

CASES = {
    "llama-group64": ("int4-group128", "q4_0", 2),
    "qwen2-group128": ("int4-group32-zero", "q4_1", 3),
    "phi3-group64": ("int4-group64-zero", "q4_1", 3),
    "qwen3-group64": ("int4-group64", "q4_0", 2),
}
"""Model -> scheme, type and file type. Rows that are turned, biases, fused linears, norms of heads."""


@pytest.fixture(scope="module")
def source(checkpoint):
    return lambda case: checkpoint(case, CASES[case][0])


@pytest.mark.parametrize("case", CASES)
def test_gguf_holds_the_very_weights_and_llamacpp_computes_them(case, source, ids, tmp_path):
    folder, (_, label, file_type) = source(case), CASES[case]
    prepared = prepare_gguf(folder)
    prepared.write(tmp_path / "model.gguf")
    assert {tensor.type_name for tensor in prepared.tensors if tensor.is_quantized} == {label}
    found = verify(folder, tmp_path / "model.gguf", ids)
    assert found.passed, found.problems
    assert (found.runtime, found.weights.max_scale_error) == ("llama.cpp", 0)
    # Roundings of activations flip, more often in Q4_1, whose sums of blocks llama.cpp rounds.
    assert found.judged.mean_abs_delta < (0.02 if label == "q4_0" else 0.1)

    reader = GGUFReader(tmp_path / "model.gguf")  # an independent reader: gguf-py
    assert reader.get_field("general.file_type").contents() == file_type
    stored = {tensor.name: tensor for tensor in reader.tensors}["blk.1.ffn_down.weight"]
    values = quants.dequantize(stored.data, stored.tensor_type)
    assert np.array_equal(
        values, open_checkpoint(folder).matrix("model.layers.1.mlp.down_proj.weight").values()
    )


@pytest.mark.parametrize("case", CASES)
def test_transformers_computes_the_compressed_folder(case, source, ids, tmp_path):
    folder = source(case)
    prepare_compressed(folder).write(tmp_path / "w4a16")
    expected = reference_model(folder)(torch.tensor([ids])).logits
    found = load_export(tmp_path / "w4a16")(torch.tensor([ids])).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    proof = verify(folder, tmp_path / "w4a16", ids)
    assert proof.passed, proof.problems
    assert (proof.weights.num_wrong_codes, proof.weights.max_scale_error) == (0, 0)

    opened, model = open_checkpoint(folder), open_model(tmp_path / "w4a16")
    held = family_of(opened.model_type).held
    for name in filter(opened.is_quantized, opened.names):
        matrix, layer = opened.matrix(name), int(name.split(".")[2])
        read = [model.matrix(layer, part) for part in held[name.removesuffix(".weight").split(".", 3)[3]]]
        assert all(part.bits == 4 for part in read)
        assert np.array_equal(np.concatenate([part.values() for part in read]), matrix.values()), name


class _Int8PerGroup:
    """What the native engine rounds inputs of 4-bit matrices to, whatever their own groups are."""

    def quantize(self, x: torch.Tensor) -> Unrounded:
        return Unrounded(round_tokens(x.reshape(-1, INPUT_GROUP), 1e-5).values().view(x.shape))


def _values(matrix):
    codes, scales = matrix.unpack()
    return torch.from_numpy(codes * np.repeat(scales, codes.shape[1] // scales.shape[1], 1))


@pytest.mark.parametrize("case", ["llama-group64", "qwen2-group128"])
def test_the_native_engine_computes_checkpoint_and_exports(case, source, ids, tmp_path):
    folder = source(case)
    prepare_gguf(folder).write(tmp_path / "model.gguf")
    prepare_compressed(folder).write(tmp_path / "w4a16")
    tokens = np.array(ids[:24], np.int32)
    for path in (tmp_path / "model.gguf", tmp_path / "w4a16", folder):
        weights, model = load_model(path, quantize_master), reference_model(folder)
        for _, layer in bit_linears(model):
            layer.activation = _Int8PerGroup()
        with torch.no_grad():
            model.get_input_embeddings().weight.copy_(_values(weights.embedding))  # in 8 bits there
            if weights.head is not None:
                model.get_output_embeddings().weight.copy_(_values(weights.head))
            expected = model(torch.from_numpy(tokens)[None].long()).logits[0]
        none, whole = np.zeros(1, np.int32), np.array([0, len(tokens)], np.int32)
        found = tk.Decoder(weights, 1, "f32", 1).forward(
            tokens, whole, none, none[None], np.arange(len(tokens))
        )
        delta = (torch.from_numpy(found).log_softmax(-1) - expected.log_softmax(-1)).abs()
        assert delta.mean() < 0.01, path  # a rounding that flips; 6e-5 where none does


def test_words_and_settings_are_those_of_the_package(source, tmp_path):
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    folder = source("qwen2-group128")
    prepare_compressed(folder).write(tmp_path / "w4a16")
    tensors = load_file(tmp_path / "w4a16" / "model.safetensors")
    name = "model.layers.0.self_attn.k_proj.weight"
    matrix = open_checkpoint(folder).matrix(name).to(torch.from_numpy)
    zeros = (-matrix.offsets / matrix.scales).to(torch.int8)
    assert torch.equal(tensors[f"{name}_packed"], pack_to_int32(matrix.codes, 4))
    assert torch.equal(tensors[f"{name}_zero_point"], pack_to_int32(zeros, 4, packed_dim=0))
    settings = json.loads((tmp_path / "w4a16" / "config.json").read_text())["quantization_config"]
    (group,) = settings["config_groups"].values()
    assert group["input_activations"] is None
    assert group["weights"] == {
        "num_bits": 4,
        "type": "int",
        "symmetric": False,
        "strategy": "group",
        "group_size": 32,
        "dynamic": False,
    }


def test_a_changed_code_and_a_changed_scale_are_found(source, tmp_path):
    folder = source("qwen3-group64")
    prepare_compressed(folder).write(tmp_path / "w4a16")
    opened, weights = open_checkpoint(folder), HfWeights(tmp_path / "w4a16")
    name = "model.layers.1.mlp.up_proj.weight"
    right = weights.values(name)

    def check(change):
        class Changed(HfWeights):
            def values(self, asked):
                return change(right.copy()) if asked == name else super().values(asked)

        return check_weights(opened, Changed(tmp_path / "w4a16"))

    def one_code_more(values):
        values[3, 5] += opened.matrix(name).scales[3, 0]
        return values

    assert check(one_code_more).num_wrong_codes == 1
    found = check(lambda values: values * np.float32(1.01))
    assert (found.num_wrong_codes, found.worst) == (0, name)
    assert found.max_scale_error == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("case", "wanted", "message"),
    [
        (
            "llama-group64",
            "tq2_0",
            "its weights have 4 bits; types that hold it exactly: q4_0, q8_0, or auto",
        ),
        ("phi3-group64", "q4_0", "have 4 bits and zero points; types that hold it exactly: q4_1, or auto"),
    ],
)
def test_types_that_cannot_hold_them_are_refused(case, wanted, message, source):
    with pytest.raises(ExportError, match=message):
        prepare_gguf(source(case), wanted)


def test_ternary_weights_and_folders_of_ternary_codes(source, checkpoint):
    with pytest.raises(
        ExportError, match="packed folder holds ternary ones; alternatives: --format compressed"
    ):
        prepare_hf(source("llama-group64"))
    with pytest.raises(ExportError, match="types that hold it exactly: q2_0, q4_0, f16, q8_0, or auto"):
        prepare_gguf(checkpoint("llama-group64"), "q4_1")


def test_what_is_said_of_them_is_true(source, tmp_path):
    """The native engine runs the checkpoint and both exports; cards speak of 4 bits."""
    folder = source("qwen2-group128")
    prepare_gguf(folder).write(tmp_path / "model.gguf")
    prepare_compressed(folder).write(tmp_path / "w4a16")
    opened = open_checkpoint(folder)
    num_weights = sum(np.prod(opened.shape(name)) for name in filter(opened.is_quantized, opened.names))
    for path in (folder, tmp_path / "model.gguf", tmp_path / "w4a16"):
        assert inspect_model(path).native_engine == "yes"
    for path in (tmp_path / "model.gguf", tmp_path / "w4a16"):
        text = card_of(make_record(opened, path))
        assert "Rounding to 4 bits" in text
        assert "ternary" not in text
        assert "three values" not in text
        assert "weights of 2 bits" not in text
        assert "from_pretrained" not in text  # transformers does not load packed zero points
        assert f"| 4-bit weights | {num_weights:,} |" in text
