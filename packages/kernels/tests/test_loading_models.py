"""Whole models: every export of every family gives the codes and scales of bitnet_arch; refusals."""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf_files import finish
from safetensors.numpy import load_file, save_file

import ternary_kernels as tk
from bitnet_arch.master_quantizer import quantize_master
from ternary_kernels.loading import load_model
from wf_formats.decoder_config import DecoderConfig
from wf_formats.errors import LoadError
from wf_formats.families.block import HF_STEMS, MATRICES, VECTORS, gguf_name, gguf_scale_name
from wf_formats.gguf import TensorType, open_gguf
from wf_formats.models import open_model
from wf_formats.models.gguf_seal import SEAL_KEY
from wf_formats.rope import scaled_frequencies

NARROW = {"hidden_size": 192, "intermediate_size": 448, "num_attention_heads": 3, "num_key_value_heads": 1}
LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama-tensor": ("tiny_llama", "tensor", {}),
    "llama-tensor-192": ("tiny_llama", "tensor", NARROW),
    "llama-group64": ("tiny_llama", "group64", {"rope_parameters": LLAMA_3}),
    "llama-group64-untied": ("tiny_llama", "group64", {"tie_word_embeddings": False}),
    "mistral-group64": ("tiny_mistral", "group64", {}),
    "mistral-group64-window": ("tiny_mistral", "group64", {"sliding_window": 40}),
    "mistral-tensor": ("tiny_mistral", "tensor", {"head_dim": 64}),
    "qwen2-group128": ("tiny_qwen2", "group128", {}),
    "qwen3-group64": ("tiny_qwen3", "group64", {}),
    "qwen3-tensor": ("tiny_qwen3", "tensor", {}),
}
ANY_SHAPE = ["checkpoint", "auto", "q2_0", "q4_0", "f16", "bitlinear", "autobitlinear"]
EXPORTS = dict.fromkeys(CASES, ANY_SHAPE) | {
    "llama-tensor": [*ANY_SHAPE, "tq1_0", "tq2_0"],
    "qwen3-tensor": ["checkpoint"],  # SubLN in Qwen has no export
}
ROUNDING = {"auto": 2.0**-11, "f16": 2.0**-11, "autobitlinear": 2.0**-8}
"""Of embeddings, by the type that an export gives them: Q8_0's scales, fp16, bf16."""


@pytest.fixture(scope="module")
def checkpoint(request, tmp_path_factory) -> Callable[[str], Path]:
    """Factory (cached): a converted tiny model with a byte-level tokenizer, by the name of a case."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    import bitnet_arch

    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name in made:
            return made[name]
        base, scheme, overrides = CASES[name]
        model = request.getfixturevalue(base)(**overrides)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(1 + 0.2 * noise if "norm" in key else 0.1 * noise)
        config = bitnet_arch.ConversionConfig(bitnet_arch.quantizer(scheme))
        bitnet_arch.convert(model, config, torch.randint(3, 512, (8, 64), generator=generator))
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocab = {token: index for index, token in enumerate([*alphabet, "ab"])}
        backend = Tokenizer(models.BPE(vocab, [("a", "b")]))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
        made[name] = tmp_path_factory.mktemp("checkpoints") / name
        bitnet_arch.save_checkpoint(model, tokenizer, made[name], {"stage": "stage2"})
        return made[name]

    return make


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory) -> Callable[[str, str], Path]:
    """Factory (cached): an export of a case."""
    from wf_converter.gguf_export import prepare_gguf
    from wf_converter.hf_export import prepare_hf

    made: dict[tuple[str, str], Path] = {}

    def make(name: str, kind: str) -> Path:
        if kind == "checkpoint":
            return checkpoint(name)
        path = tmp_path_factory.mktemp("exports") / f"{name}.{kind}"
        if kind in ("bitlinear", "autobitlinear"):
            dtype = "bfloat16" if kind == "autobitlinear" else "float32"
            prepare_hf(checkpoint(name), kind, dtype).write(path)
        else:
            prepare_gguf(checkpoint(name), kind, "q8_0" if kind == "auto" else "f16").write(path)
        return path

    def cached(name: str, kind: str) -> Path:
        if (name, kind) not in made:
            made[name, kind] = make(name, kind)
        return made[name, kind]

    return cached


Matrices = dict[tuple[int, str], tuple[np.ndarray, np.ndarray]]


def expected_values(folder: Path) -> tuple[Matrices, dict[str, np.ndarray]]:
    """Codes and values by (layer, part) as bitnet_arch has them in memory, and all other tensors by name."""

    import bitnet_arch

    loaded = bitnet_arch.load_checkpoint(folder).model
    state = {name: tensor.numpy() for name, tensor in loaded.state_dict().items()}
    matrices = {}
    parts = {HF_STEMS[part]: part for part in MATRICES}
    for name, linear in bitnet_arch.bit_linears(loaded):
        _, _, layer, stem = name.split(".", 3)
        matrix = linear.quantizer.quantize(linear.weight)
        values = matrix.values().numpy()
        floor = 0
        consumer = {"v": "self_attn.o_proj", "up": "mlp.down_proj"}.get(parts[stem])
        if consumer is not None:
            sub_norm = loaded.get_submodule(f"model.layers.{layer}.{consumer}").sub_norm
            floor = 0 if sub_norm is None else sub_norm.log2_floor
        matrices[int(layer), parts[stem]] = matrix.codes.numpy(), values * np.float32(2.0**-floor)
    return matrices, state


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name, kinds in EXPORTS.items() for kind in kinds]
)
def test_codes_and_scales_are_those_of_training(name, kind, exported, checkpoint):
    model = open_model(exported(name, kind), quantize_master)
    matrices, state = expected_values(checkpoint(name))
    rounded = 2.0**-11 if kind in ("auto", "q2_0", "q4_0", "f16") and "group" in name else 3e-7
    for (layer, part), (codes, values) in matrices.items():
        found = model.matrix(layer, part)
        assert found.granularity == CASES[name][1]
        np.testing.assert_array_equal(found.codes, codes)
        np.testing.assert_allclose(found.values(), values, rtol=0 if kind == "checkpoint" else rounded)
    assert (model.head() is None) == ("untied" not in name)
    for tensor, key in ((model.embedding(), "model.embed_tokens.weight"), (model.head(), "lm_head.weight")):
        if tensor is not None:
            bound = np.abs(state[key]).max() * (1.01 / 254 + ROUNDING.get(kind, 2.0**-11))
            np.testing.assert_allclose(tensor.values(), state[key], atol=bound)
    tolerance = 2.0**-8 if kind == "autobitlinear" else 0  # stored as bf16
    np.testing.assert_allclose(model.final_norm(), state["model.norm.weight"], rtol=tolerance)
    check_vectors(model, state, tolerance)


def check_vectors(model: Any, state: dict[str, np.ndarray], tolerance: float) -> None:
    names = {
        "input_norm": "input_layernorm.weight",
        "post_attention_norm": "post_attention_layernorm.weight",
        "q_bias": "self_attn.q_proj.bias",
        "k_bias": "self_attn.k_proj.bias",
        "v_bias": "self_attn.v_proj.bias",
        "q_norm": "self_attn.q_norm.weight",
        "k_norm": "self_attn.k_norm.weight",
        "attn_sub_norm": "self_attn.o_proj.sub_norm.weight",
        "ffn_sub_norm": "mlp.down_proj.sub_norm.weight",
    }
    for part in VECTORS:
        expected = state.get(f"model.layers.1.{names.get(part)}")
        found = model.vector(1, part)
        assert (found is None) == (expected is None), part
        if expected is not None:
            np.testing.assert_allclose(found, expected, rtol=tolerance)


def check_attention(found: DecoderConfig, expected: DecoderConfig) -> None:
    """Windows equal; rotary positions to the rounding of fp32 divisors and keys."""
    for ours, theirs in zip(found.attention, expected.attention, strict=True):
        assert ours.window == theirs.window
        assert (ours.rope is None) == (theirs.rope is None)
        if ours.rope is not None and theirs.rope is not None:
            frequencies = theirs.rope.inverse_frequencies
            np.testing.assert_allclose(ours.rope.inverse_frequencies, frequencies, rtol=3e-7)
            assert ours.rope.attention_factor == pytest.approx(theirs.rope.attention_factor, rel=3e-7)


def test_configuration_is_the_same_in_all_formats(exported):
    for name in ("llama-group64", "qwen3-group64", "llama-tensor", "mistral-group64-window"):
        expected = open_model(exported(name, "checkpoint"), quantize_master).config
        for kind in ("q4_0", "bitlinear"):
            found = open_model(exported(name, kind), quantize_master).config
            check_attention(found, expected)
            assert {**vars(found), "attention": 0, "rms_norm_eps": 0} == {
                **vars(expected),
                "attention": 0,
                "rms_norm_eps": 0,
            }
            assert found.rms_norm_eps == pytest.approx(expected.rms_norm_eps, rel=1e-6)  # fp32 in GGUF


@pytest.mark.parametrize("name", ["llama-tensor", "llama-group64-untied", "qwen2-group128"])
def test_packed_matrices_hold_what_was_loaded(name, exported):
    path = exported(name, "auto")
    packed, model = load_model(path, quantize_master), open_model(path, quantize_master)
    for index, layer in enumerate(packed.layers):
        for part in MATRICES:
            codes, _ = getattr(layer, part).unpack()
            np.testing.assert_array_equal(codes, model.matrix(index, part).codes)
    codes, _ = packed.embedding.unpack()
    np.testing.assert_array_equal(codes, model.embedding().codes)
    assert (packed.head is None) == ("untied" not in name)
    assert packed.num_bytes > packed.embedding.num_bytes
    tk.Decoder(packed, num_pages=1)


# ---- refusals ----


def rewrite(
    source: Path,
    path: Path,
    keys: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray | None] | None = None,
    arch: str | None = None,
) -> Path:
    """A GGUF file with keys (None removes) and tensors (F32; None removes) changed."""
    reader, old = open_gguf(source), gguf.GGUFReader(source)
    name = arch or reader.keys["general.architecture"]
    writer = gguf.GGUFWriter(path, name)
    changed: dict[str, Any] = {SEAL_KEY: None} | (keys or {})  # somebody else's file
    for key, field in old.fields.items():
        if key.startswith(("GGUF.", "tokenizer", "general.architecture")) or key in changed:
            continue
        renamed = key.replace(reader.keys["general.architecture"], name, 1)
        item = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(renamed, field.contents(), field.types[0], item)
    for key, value in changed.items():
        kinds = {bool: "bool", int: "uint32", float: "float32", str: "string", list: "array"}
        if value is not None:
            getattr(writer, f"add_{kinds[type(value)]}")(key, value)
    for tensor, array in (dict.fromkeys(reader.tensors) | (tensors or {})).items():
        if tensor in (tensors or {}):
            if array is not None:
                writer.add_tensor(tensor, array)
        else:
            its = reader.tensors[tensor]
            data = reader.data(tensor).copy().reshape(*its.shape[:-1], -1)
            writer.add_tensor(tensor, data, raw_dtype=gguf.GGMLQuantizationType(its.ggml_type))
    finish(writer)
    return path


HEAD_KEYS = ("llama.attention.key_length", "llama.attention.value_length", "llama.rope.dimension_count")
KEY_REFUSALS = {
    "missing": ({"llama.context_length": None}, "llama.context_length is missing"),
    "wrong kind": ({"llama.block_count": "two"}, "llama.block_count is 'two'"),
    "zero": ({"llama.attention.head_count": 0}, "head_count is 0"),
    "per layer": ({"llama.attention.head_count_kv": [2, 1]}, "a value per layer is not supported"),
    "unknown": ({"llama.logit_scale": 0.5}, "llama.logit_scale = 0.5 is not understood"),
    "experts": ({"llama.expert_count": 8}, "expert_count is 8"),
    "window": ({"llama.attention.sliding_window": 128}, "sliding windows are not supported"),
    "partial rotation": ({"llama.rope.dimension_count": 32}, "rope.dimension_count is 32; only 64"),
    "long rope": ({"llama.rope.scaling.type": "longrope"}, "'longrope' is not supported"),
    "logit scale": ({"llama.embedding_scale": 0.5}, "llama.embedding_scale = 0.5 is not understood"),
    "eps": ({"llama.attention.layer_norm_rms_epsilon": 1e9}, "rms_norm_eps is 1000000000.0"),
    "kind of a number": (
        {"llama.rope.freq_base": 10000},
        "rope.freq_base is 10000 \\(uint32\\), not float32",
    ),
    "yarn of no factor": (
        {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": "two"},
        "scaling.factor is 'two'",
    ),
    "vocabulary": ({"llama.vocab_size": 999}, "vocab_size is 999; only 512"),
    "value heads": ({"llama.attention.value_length": 32}, "value_length is 32; only 64"),
    "activation": ({"llama.hidden_activation": "gelu"}, "hidden_activation is 'gelu'"),
    "layers": ({"llama.block_count": 1}, r"blk\.1\..* has no place in this architecture"),
    "more layers": ({"llama.block_count": 3}, r"blk\.2\..* is missing"),
    "width": ({"llama.feed_forward_length": 256}, "has the shape"),
    "countless layers": ({"llama.block_count": 2**31 - 1}, "block_count is 2147483647; at most"),
    "giant heads": (dict.fromkeys(HEAD_KEYS, 2**30), "heads of 1073741824"),
}


@pytest.mark.parametrize("case", KEY_REFUSALS)
def test_gguf_settings_that_are_not_supported(case, exported, tmp_path):
    keys, message = KEY_REFUSALS[case]
    path = rewrite(exported("llama-group64", "q4_0"), tmp_path / "m.gguf", keys)
    with pytest.raises(LoadError, match=message):
        open_model(path, quantize_master)


ROPE_KEYS: dict[str, tuple[dict[str, Any], dict[str, Any], float]] = {
    "a factor alone": ({"factor": 4.0}, {"rope_type": "linear", "factor": 4.0}, 1.0),
    "linear": ({"type": "linear", "factor": 4.0}, {"rope_type": "linear", "factor": 4.0}, 1.0),
    "none": ({"type": "none", "factor": 4.0}, {}, 1.0),
    "yarn": (
        {"type": "yarn", "factor": 4.0, "original_context_length": 128},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
        0.1 * math.log(4) + 1,
    ),
    "yarn of the context": (
        {"type": "yarn", "factor": 4.0, "attn_factor": 0.5},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
        0.5 * (0.1 * math.log(4) + 1),
    ),
    "yarn of both scales": (
        {"type": "yarn", "factor": 4.0, "yarn_log_multiplier": 0.5},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
        (0.1 * math.log(4) + 1) / (0.05 * math.log(4) + 1),
    ),
}


@pytest.mark.parametrize("case", ROPE_KEYS)
def test_rotary_keys_mean_what_llamacpp_makes_of_them(case, exported, tmp_path):
    keys, rope, scale = ROPE_KEYS[case]
    keys = {f"llama.rope.scaling.{key}": value for key, value in keys.items()}
    keys["llama.rope.scaling.attn_factor"] = keys.get("llama.rope.scaling.attn_factor")
    path = rewrite(exported("llama-group64-untied", "q4_0"), tmp_path / "m.gguf", keys)
    for layer in open_model(path).config.attention:
        expected = scaled_frequencies(64, {"rope_theta": 10000.0} | rope)
        np.testing.assert_allclose(layer.rope.inverse_frequencies, expected, rtol=1e-6)
        assert layer.rope.attention_factor == pytest.approx(scale, rel=1e-6)


LAYERED = {
    "window": ({"attention.sliding_window": "8"}, {}, "sliding_window is '8'"),
    "flags": ({"attention.sliding_window_pattern": [True]}, {}, "not 2 flags, one a layer"),
    "rotation": ({"attention.rope_pattern": [True] * 3}, {}, "rope_pattern is .*not 2 flags"),
    "logits": ({"logit_scale": 0.5}, {}, "logit_scale is 0.5"),
    "residual": ({"residual_scale": 0.5}, {}, "residual_scale = 0.5 is not understood"),
    "sinks": ({}, {"blk.1.attn_sinks.weight": np.zeros(4, np.float32)}, "sinks that weigh something"),
    "no sinks": ({}, {"blk.1.attn_sinks.weight": None}, r"blk\.1\.attn_sinks\.weight is missing"),
}


@pytest.mark.parametrize("case", LAYERED)
def test_settings_of_layers_that_are_not_supported(case, exported, tmp_path):
    keys, tensors, message = LAYERED[case]
    keys = {f"granite_swa.{key}": value for key, value in keys.items()}
    path = rewrite(exported("mistral-group64-window", "q4_0"), tmp_path / "m.gguf", keys, tensors)
    with pytest.raises(LoadError, match=message):
        open_model(path)


def test_gguf_settings_without_effect_are_accepted(exported, tmp_path):
    keys = {"llama.attention.sliding_window": 512, "llama.expert_count": 0, "llama.rope.scaling.type": "none"}
    open_model(rewrite(exported("llama-group64", "q4_0"), tmp_path / "m.gguf", keys))


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


SCALES: dict[str, np.ndarray | None] = {
    gguf_scale_name(gguf_name(layer, part)): np.ones(1, np.float32) for layer in (0, 1) for part in MATRICES
}
TENSOR_REFUSALS: dict[str, tuple[dict[str, np.ndarray | None], str]] = {
    "dense": ({"blk.1.ffn_up.weight": weights(512, 256)}, r"ffn_up\.weight \(f32\) is not ternary.*convert"),
    "missing": ({"blk.0.attn_q.weight": None}, r"blk\.0\.attn_q\.weight is missing"),
    "superfluous": ({"blk.0.attn_q_norm.weight": weights(64)}, "has no place"),
    "one output bias": ({"blk.0.attn_output.bias": weights(256)}, r"blk\.1\.attn_output\.bias is missing"),
    "one bias": ({"blk.0.attn_q.bias": weights(256)}, r"attn_k\.bias and 4 more is missing"),
    "shape": ({"blk.0.attn_norm.weight": weights(255)}, r"has the shape \[255\], expected \[256\]"),
    "nan norm": ({"blk.0.attn_norm.weight": np.full(256, np.nan, np.float32)}, "input_norm of layer 0"),
    "nan scale": (SCALES | {"blk.0.attn_q.scale": np.array([np.nan], np.float32)}, "scale of the matrix"),
    "scale shape": (SCALES | {"blk.0.attn_q.scale": weights(2)}, r"has the shape \[2\]"),
    "scale missing": (SCALES | {"blk.1.ffn_up.scale": None}, r"blk\.1\.ffn_up\.scale is missing"),
    "no embedding": ({"token_embd.weight": None}, "token_embd.weight is missing"),
    "nan embedding": ({"token_embd.weight": np.full((512, 256), np.inf, np.float32)}, "token_embd.weight"),
    "rope": ({"rope_freqs.weight": np.zeros(32, np.float32)}, "32 positive divisors"),
}  # fmt: skip


@pytest.mark.parametrize("case", TENSOR_REFUSALS)
def test_gguf_tensors_that_are_not_supported(case, exported, tmp_path):
    tensors, message = TENSOR_REFUSALS[case]
    path = rewrite(exported("llama-group64", "q4_0"), tmp_path / "m.gguf", tensors=tensors)
    with pytest.raises(LoadError, match=message):
        load_model(path, quantize_master)


def test_another_architecture_is_refused(exported, tmp_path):
    path = rewrite(exported("llama-group64", "q4_0"), tmp_path / "m.gguf", arch="gemma")
    with pytest.raises(LoadError, match="'gemma' is not supported; supported are llama"):
        open_model(path, quantize_master)


def test_a_dense_folder_is_refused_with_a_remedy(packaged_model_dir):
    with pytest.raises(LoadError, match=r"is not ternary.*convert and train.*or let llama.cpp's"):
        load_model(packaged_model_dir, quantize_master)


def test_i2_s_files_of_bitnet_cpp(exported, tmp_path):
    """The bitnet export with its matrices rewritten as I2_S under bitnet.cpp's architecture name."""
    source = exported("llama-tensor", "tq2_0")
    model, reader = open_model(source), open_gguf(source)
    path = rewrite(source, tmp_path / "plain.gguf", arch="bitnet-b1.58")
    data, offset, table, blobs = path.read_bytes(), 0, [], []
    keys_end = key_bytes(data)
    names = [name for name in reader.tensors if not name.endswith(".scale")]
    for name in names:
        kind, blob, shape = i2_s_tensor(model, reader, name)
        table.append(
            struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", len(shape))
            + b"".join(struct.pack("<Q", size) for size in reversed(shape)) + struct.pack("<IQ", kind, offset)
        )  # fmt: skip
        blobs.append(blob + bytes(-len(blob) % 32))
        offset += len(blobs[-1])
    head = b"GGUF" + struct.pack("<IQQ", 3, len(names), *struct.unpack("<Q", data[16:24]))
    head += data[24:keys_end] + b"".join(table)
    path.write_bytes(head + bytes(-len(head) % 32) + b"".join(blobs))
    found = open_model(path, quantize_master)
    assert found.config.activation == "relu2"
    for layer in range(2):
        for part in MATRICES:
            expected = model.matrix(layer, part)
            np.testing.assert_array_equal(found.matrix(layer, part).codes, expected.codes)
            assert found.matrix(layer, part).scales == expected.scales


def key_bytes(data: bytes) -> int:
    """Where the keys end and the tensor table begins."""
    from wf_formats.gguf.header import _Cursor, _keys

    cursor = _Cursor(memoryview(data), 24)
    _keys(cursor, struct.unpack("<Q", data[16:24])[0])
    return cursor.position


def i2_s_tensor(model: Any, reader: Any, name: str) -> tuple[int, bytes, tuple[int, ...]]:
    tensor = reader.tensors[name]
    if tensor.type is not TensorType.TQ2_0:
        return tensor.ggml_type, reader.data(name).tobytes(), tensor.shape
    stems = {"attn_q": "q", "attn_k": "k", "attn_v": "v", "attn_output": "o"}
    stems |= {"ffn_gate": "gate", "ffn_up": "up", "ffn_down": "down"}
    _, layer, stem, _ = name.split(".")
    matrix = model.matrix(int(layer), stems[stem])
    levels = (matrix.codes + 1).astype(np.uint8).reshape(-1, 4, 32)
    packed = levels[:, 0] << 6 | levels[:, 1] << 4 | levels[:, 2] << 2 | levels[:, 3]
    return 36, packed.tobytes() + matrix.scales.tobytes() + bytes(28), tensor.shape


def quantized(method: str, **options: Any) -> dict[str, Any]:
    return {"quantization_config": {"quant_method": method, **options}}


FLOOR = {"sub_norm_log2_floor": {"x": 1}}
CONFIG_REFUSALS = {
    "model type": ({"model_type": "mixtral"}, "'mixtral' is not supported"),
    "missing": ({"hidden_size": None}, "hidden_size is None"),
    "countless layers": ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, not"),
    "giant heads": ({"head_dim": 10**9}, "head_dim is 1000000000, not"),
    "more heads than width": (
        {"num_attention_heads": 512, "head_dim": None},
        "256 does not divide among",
    ),
    "activation": ({"hidden_act": "gelu"}, "'gelu' is not one of"),
    "window": ({"use_sliding_window": True, "sliding_window": 64}, "sliding windows"),
    "window of no token": ({"model_type": "mistral", "sliding_window": 0}, "sliding_window is 0"),
    "capped logits": ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
    "layer types": ({"layer_types": ["linear_attention"]}, "'linear_attention'"),
    "partial rotation": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    "rope": ({"rope_parameters": {"rope_type": "mrope", "rope_theta": 1e4}}, "'mrope'"),
    "rope parameter": ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "factor is None"),
    "rope kind": ({"rope_parameters": [1]}, "rope_parameters is"),
    "method": (quantized("gptq"), "'gptq' is not supported"),
    "scheme": (quantized("wrinklefree", scheme="row"), "'row' is unknown"),
    "quantization": ({"quantization_config": 5}, "quantization_config is 5"),
    "sub norm": (
        quantized("wrinklefree", scheme="group64", sub_norm=True),
        "norm.weight and 3 more is missing",
    ),
    "floor": (quantized("wrinklefree", scheme="group64", **FLOOR), "'x', which the model does not have"),
    "floors": (quantized("wrinklefree", scheme="group64", sub_norm_log2_floor=[1]), "sub_norm_log2_floor is"),
    "untied": ({"tie_word_embeddings": False}, "lm_head.weight is missing"),
    "packed": (quantized("wrinklefree_packed", scheme="group64"), "is missing"),
    "packed tensor": (quantized("wrinklefree_packed", scheme="tensor"), "has ternary scales per group"),
    "rms norm": (quantized("bitnet", use_rms_norm=True), "use_rms_norm"),
    "kept": (quantized("bitnet", modules_to_not_convert=["lm_head", "o_proj"]), "'o_proj'"),
    "mode": (quantized("bitnet", linear_class="bitlinear", quantization_mode="online"), "mode 'online'"),
    "plain": ({"quantization_config": None}, "is not ternary"),
}


@pytest.mark.parametrize("case", CONFIG_REFUSALS)
def test_folders_that_are_not_supported(case, checkpoint, tmp_path):
    changes, message = CONFIG_REFUSALS[case]
    folder = shutil.copytree(checkpoint("llama-group64"), tmp_path / "m")
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(LoadError, match=message):
        load_model(folder, quantize_master)


def edited(folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> Path:
    tensors = dict(load_file(folder / "model.safetensors"))
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_master_weights_need_a_quantizer(checkpoint):
    with pytest.raises(LoadError, match=r"quantize_master=bitnet_arch\.master_quantizer.*or export it first"):
        load_model(checkpoint("llama-tensor"))


def test_master_weights_must_be_finite_and_divide(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("llama-tensor-192"), tmp_path / "m")
    name = "model.layers.1.mlp.up_proj.weight"
    edited(folder, lambda tensors: tensors[name].__setitem__((3, 5), np.nan))
    with pytest.raises(LoadError, match=r"mlp\.up_proj\.weight \(F32\): values: a scale is nan"):
        load_model(folder, quantize_master)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "wrinklefree", "scheme": "group128"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(LoadError, match="rows of 192 do not divide into groups of 128"):
        open_model(folder, quantize_master)


def test_tied_heads_must_be_the_embedding(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("llama-group64"), tmp_path / "m")
    same = "model.embed_tokens.weight"
    edited(folder, lambda tensors: tensors.update({"lm_head.weight": tensors[same].copy()}))
    assert open_model(folder, quantize_master).head() is None
    edited(folder, lambda tensors: tensors["lm_head.weight"].__setitem__((0, 0), 9))
    with pytest.raises(LoadError, match=r"lm_head\.weight differs"):
        open_model(folder, quantize_master)


def test_scales_of_packed_folders_must_be_usable(exported, tmp_path):
    name = "model.layers.0.mlp.up_proj.weight_scale"
    folder = shutil.copytree(exported("llama-tensor", "bitlinear"), tmp_path / "m")
    edited(folder, lambda tensors: tensors[name].fill(0))
    with pytest.raises(LoadError, match="a scale is inf"):
        load_model(folder, quantize_master)


def test_a_missing_config_is_named(tmp_path):
    with pytest.raises(LoadError, match=r"config\.json is missing"):
        open_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(LoadError, match=r"config\.json is damaged"):
        open_model(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_model(tmp_path / "model.gguf")


def test_pages_of_the_file_are_given_back(exported, monkeypatch):
    released: list[str] = []
    model = open_model(exported("llama-tensor", "f16"))
    monkeypatch.setattr(type(model.file), "release", lambda self, name: released.append(name))
    model.embedding()
    for part in MATRICES:
        model.matrix(0, part)
    assert len(released) == len(MATRICES) + 1


def test_an_exported_folder_is_kept_and_a_training_checkpoint_is_not(exported, tmp_path, monkeypatch):
    from ternary_kernels.packed import load_packed
    from ternary_kernels.packed.settings import CacheSettings

    monkeypatch.setattr("wf_formats.content_records.GRAIN_S", -60.0)
    settings = CacheSettings(tmp_path, 10**9, is_verified=True)
    folder = exported("llama-tensor", "bitlinear")
    expected = load_model(folder)
    for _ in range(2):
        model = load_packed(folder, settings=settings)
        assert model.is_mapped
        assert model.weights.config == expected.config
        for part in MATRICES:
            found, own = getattr(model.weights.layers[1], part), getattr(expected.layers[1], part)
            for one, other in zip(found.parts(), own.parts(), strict=True):
                np.testing.assert_array_equal(one, other)
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    assert len(list(tmp_path.glob("*.wfpacked"))) == 1
    assert load_packed(folder, settings=settings).is_mapped
    assert len(list(tmp_path.glob("*.wfpacked"))) == 2
    assert not load_packed(
        exported("llama-tensor", "checkpoint"), quantize_master, settings=settings
    ).is_mapped
    assert len(list(tmp_path.glob("*.wfpacked"))) == 2
