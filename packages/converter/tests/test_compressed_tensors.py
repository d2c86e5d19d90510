"""Folders in compressed-tensors: by transformers with that package, by our reader, and what both refuse.

Without rounded activations transformers multiplies by the very weights: equal to 1e-5. With them it rounds
each token by max / 127.5 where training takes max / 127; with that imitated it is equal to 1e-5 again. From
the model as trained it differs as far as roundings flip: 0.05 to 0.08 nats on these random models.
"""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import bitnet_arch
from wf_converter.checkpoint import open_checkpoint
from wf_converter.command import command_line
from wf_converter.errors import ExportError
from wf_converter.export import export
from wf_converter.hf_export import prepare_compressed
from wf_converter.inspect import inspect_model
from wf_converter.readback import HfWeights, check_weights
from wf_converter.reference import COMPRESSED, EXACT, emulate, reference_model
from wf_converter.runtimes import load_export, types_of
from wf_converter.scores import Difference, native_scores, torch_scores
from wf_converter.verify import verify
from wf_formats.errors import LoadError
from wf_formats.families import family_of
from wf_formats.models import open_model
from wf_formats.packed_codes import pack_words, unpack_words

CASES = ["llama-group64-untied", "qwen2-group128", "qwen3-group64", "phi3-group64", "mistral-tensor"]
"""With an output head of its own, biases, QK-norm, fused linears, one scale for a matrix."""


@pytest.fixture(scope="module")
def source(checkpoint, tmp_path_factory, tiny_mistral, tiny_tokenizer, spread, ids):
    """Factory (cached): checkpoint of a case, without SubLN."""
    made = {}

    def make(case: str):
        if case != "mistral-tensor":
            return checkpoint(case)
        if case not in made:
            model = tiny_mistral(head_dim=64)
            spread(model)
            config = bitnet_arch.ConversionConfig(bitnet_arch.quantizer("tensor"), sub_norm=False)
            bitnet_arch.convert(model, config, torch.tensor([ids] * 6))
            made[case] = tmp_path_factory.mktemp("tensor") / "checkpoint"
            bitnet_arch.save_checkpoint(model, tiny_tokenizer("tekken"), made[case], {"stage": "stage2"})
        return made[case]

    return make


@pytest.fixture(scope="module")
def exported(source, tmp_path_factory):
    """Factory (cached): export of a case."""
    made = {}

    def make(case: str):
        if case not in made:
            made[case] = tmp_path_factory.mktemp("exports") / case
            prepare_compressed(source(case)).write(made[case])
        return made[case]

    return make


@pytest.fixture
def copied(exported, tmp_path):
    """The export of a case, to be changed."""
    return lambda case: shutil.copytree(exported(case), tmp_path / "copy")


def change_config(folder, *path, value):
    """Sets an entry of the group's quantization_config."""
    config = json.loads((folder / "config.json").read_text())
    *parents, last = path
    entry = config["quantization_config"]
    for key in parents:
        entry = entry[key]
    entry[last] = value
    (folder / "config.json").write_text(json.dumps(config))


GROUP = ("config_groups", "group_0")


def test_words_are_those_of_the_package():
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    by_hand = np.array([[-1, 0, 1, *[0] * 12, 1]], np.int8)
    assert pack_words(by_hand).tolist() == [[(0b11 << 30 | int("10" * 12, 2) << 6 | 0b111001) - 2**32]]
    codes = np.random.default_rng(0).integers(-1, 2, (6, 80)).astype(np.int8)
    assert np.array_equal(pack_words(codes), pack_to_int32(torch.from_numpy(codes), 2).numpy())
    assert np.array_equal(unpack_words(pack_words(codes)), codes)
    with pytest.raises(ValueError, match="72 inputs are not a multiple of 16"):
        pack_words(codes[:, :72])


@pytest.mark.parametrize("case", CASES)
def test_codes_and_scales_come_back_exactly(case, source, exported):
    opened, model = open_checkpoint(source(case)), open_model(exported(case))
    held = family_of(opened.model_type).held
    for name in filter(opened.is_quantized, opened.names):
        expected, layer = opened.matrix(name), int(name.split(".")[2])
        found = [model.matrix(layer, part) for part in held[name.removesuffix(".weight").split(".", 3)[3]]]
        assert np.array_equal(np.concatenate([matrix.codes for matrix in found]), expected.codes), name
        if expected.scales.ndim:
            assert np.array_equal(np.concatenate([matrix.scales for matrix in found]), expected.scales), name
        else:
            assert [matrix.scales for matrix in found] == [expected.scales], name
    proof = check_weights(opened, HfWeights(exported(case)))
    assert (proof.num_wrong_codes, proof.max_scale_error) == (0, 0)


@pytest.mark.parametrize("case", CASES)
def test_transformers_computes_what_was_trained(case, source, exported, copied, ids):
    model = reference_model(source(case))
    as_trained = torch_scores(model, ids)
    found = torch_scores(load_export(exported(case)), ids)
    imitated = torch_scores(emulate(model, types_of(model, COMPRESSED), False), ids)
    assert Difference.between(imitated, found).max_abs_delta < 1e-5
    assert 1e-3 < Difference.between(as_trained, found).mean_abs_delta < 0.15, (
        "127.5 and 127 are not the same"
    )

    folder, model = copied(case), reference_model(source(case))
    change_config(folder, *GROUP, "input_activations", value=None)
    exact = torch_scores(emulate(model, types_of(model, EXACT), False), ids)
    assert Difference.between(exact, torch_scores(load_export(folder), ids)).max_abs_delta < 1e-5


@pytest.mark.parametrize("case", ["qwen2-group128", "phi3-group64"])
def test_our_engine_serves_the_folder(case, source, exported, ids):
    """As it serves the checkpoint, to the bit."""
    found = Difference.between(native_scores(source(case), ids), native_scores(exported(case), ids))
    assert found.max_abs_delta == 0, found


def test_a_bfloat16_folder_keeps_codes_and_scales(source, ids, tmp_path):
    opened = open_checkpoint(source("llama-group64-untied"))
    prepare_compressed(opened.folder, "bfloat16").write(tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert tensors["lm_head.weight"].dtype == tensors["model.norm.weight"].dtype == torch.bfloat16
    proof = check_weights(opened, HfWeights(tmp_path / "out"))
    assert (proof.num_wrong_codes, proof.max_scale_error) == (0, 0)
    model = load_export(tmp_path / "out")
    assert model.dtype == torch.bfloat16
    assert torch.isfinite(model(torch.tensor([ids])).logits).all()


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("llama-tensor", "o_proj: SubLN before the output projections, which no class has that vLLM or"),
        ("mistral-tensor", "model.sub_norm=false"),
    ],
)
def test_sub_norms_are_refused(case, message, checkpoint):
    with pytest.raises(ExportError, match=message):
        prepare_compressed(checkpoint(case))


def test_rows_that_fill_no_words_are_refused(tmp_path, tiny_llama, tiny_tokenizer, ids):
    model = tiny_llama(intermediate_size=456)
    config = bitnet_arch.ConversionConfig(bitnet_arch.quantizer("tensor"), sub_norm=False)
    bitnet_arch.convert(model, config, torch.tensor([ids] * 6))
    bitnet_arch.save_checkpoint(model, tiny_tokenizer("smollm"), tmp_path / "c", {"stage": "stage2"})
    with pytest.raises(
        ExportError, match=r"down_proj.weight: rows of 456 weights do not fill whole words of 16"
    ):
        prepare_compressed(tmp_path / "c")


def test_the_command_proves_and_describes_it(source, ids, tmp_path):
    """Card and `wf inspect` name the format; vLLM's command stands in the card."""
    out = tmp_path / "w2a8"
    arguments = ["--checkpoint", source("phi3-group64"), "--format", "compressed-tensors"]
    arguments += ["--output", out, "--verify", "--tokens", "64", "--json", tmp_path / "proof.json"]
    result = CliRunner().invoke(command_line(export), [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    proof = json.loads((tmp_path / "proof.json").read_text())
    assert proof["passed"]
    assert proof["judged"]["max_abs_delta"] < 1e-5
    card = (out / "README.md").read_text()
    assert "vllm serve FOLDER --max-model-len 512" in card
    assert "needs the package `compressed-tensors`" in card
    assert "differs from PyTorch with the same roundings by 0.00000 nats" in card
    facts = inspect_model(out)
    assert facts.facts["quantization"] == "compressed-tensors"
    assert facts.native_engine.startswith("yes")
    opened = open_checkpoint(source("phi3-group64"))
    num_weights = sum(np.prod(opened.shape(name)) for name in opened.names if opened.is_quantized(name))
    packed = [group for group in facts.tensors if group.type == "2-bit codes in I32"]
    assert sum(group.num_weights for group in packed) == num_weights


def test_options_of_other_formats_are_refused(source, tmp_path):
    command = f"--checkpoint {source('phi3-group64')} --format compressed-tensors --output {tmp_path / 'o'}"
    for option in ("--type q4_0", "--linear-class bitlinear", f"--adapter {tmp_path / 'a'}"):
        result = CliRunner().invoke(command_line(export), f"{command} {option}")
        assert result.exit_code == 2
        assert f"{option.split()[0]} belongs to --format" in result.stderr
    result = CliRunner().invoke(command_line(export), "--checkpoint x --output y --dtype bfloat16")
    assert "--dtype belongs to --format hf or --format compressed-tensors" in result.stderr


def test_a_wrong_scale_is_not_proved(source, copied, ids):
    folder = copied("qwen3-group64")
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight_scale"
    save_file(tensors | {name: tensors[name] * 1.01}, folder / "model.safetensors", metadata={"format": "pt"})
    found = verify(source("qwen3-group64"), folder, ids)
    assert "scale of model.layers.1.mlp.up_proj.weight is off by 1.00%" in found.problems


def test_without_the_package_it_is_named(source, exported, ids, monkeypatch):
    monkeypatch.setattr(
        "transformers.quantizers.quantizer_compressed_tensors.is_compressed_tensors_available", lambda: False
    )
    monkeypatch.setitem(sys.modules, "compressed_tensors", None)
    with pytest.raises(ExportError, match="needs a package more to load"):
        verify(source("phi3-group64"), exported("phi3-group64"), ids)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format",), "int-quantized", "quantization_config.format is 'int-quantized'"),
        (("ignore",), ["lm_head", "model.layers.0.mlp.up_proj"], "quantization_config.ignore is"),
        (("ignore",), [], r"ignore is \[\]; .* the head is a plain tensor"),
        (("ignore",), None, "quantization_config.ignore is None"),
        (("kv_cache_scheme",), {"num_bits": 8}, "quantization_config.kv_cache_scheme is"),
        (("sparsity_config",), {"format": "dense"}, "quantization_config.sparsity_config is"),
        (("transform_config",), {"config_groups": {"u": {"type": "hadamard"}}}, "transform_config is"),
        (("moe_sparsity_config",), {"topk": 2}, "quantization_config.moe_sparsity_config is"),
        (("dequantize",), True, "quantization_config.dequantize is True"),
        ((*GROUP, "weight_zero_point"), 1, "config_groups.group_0.weight_zero_point is 1"),
        (("config_groups",), {}, "config_groups is {}"),
        ((*GROUP, "targets"), ["re:.*mlp.*"], "config_groups.group_0.targets is"),
        ((*GROUP, "input_activations"), None, "input_activations is None"),
        ((*GROUP, "input_activations", "dynamic"), False, "input_activations.dynamic is False"),
        ((*GROUP, "weights", "num_bits"), 4, "weights.num_bits is 4"),
        ((*GROUP, "weights", "symmetric"), False, "weights.symmetric is False"),
        ((*GROUP, "weights", "group_size"), 32, "or for groups of 64, 128"),
        ((*GROUP, "weights", "actorder"), "group", "weights.actorder is 'group'"),
    ],
)
def test_other_kinds_of_compressed_tensors_are_refused(path, value, message, copied):
    folder = copied("phi3-group64")
    change_config(folder, *path, value=value)
    with pytest.raises(LoadError, match=message.replace("{", r"\{")):
        open_model(folder)


def test_what_the_package_writes_itself_is_read(copied):
    """Settings that say how scales were chosen, and defaults spelled out."""
    folder = copied("phi3-group64")
    change_config(folder, *GROUP, "weights", "observer", value="minmax")
    change_config(folder, *GROUP, "weights", "actorder", value=None)
    change_config(folder, *GROUP, "input_activations", "observer_kwargs", value={})
    for key, value in (
        *(("version", "0.20.0"), ("global_compression_ratio", 3.5)),
        *(("kv_cache_scheme", None), ("sparsity_config", {}), ("moe_sparsity_config", None)),
    ):
        change_config(folder, key, value=value)
    for unused in ({}, {"config_groups": {}}):
        change_config(folder, "transform_config", value=unused)
        assert open_model(folder).config.num_layers == 2


def test_codes_that_are_not_ternary_are_refused(copied):
    folder, name = copied("phi3-group64"), "model.layers.0.self_attn.o_proj.weight_packed"
    tensors = load_file(folder / "model.safetensors")
    tensors[name][0, 0] = 0b11_00  # codes 1 and -2 in one group
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(LoadError, match="is not ternary"):
        open_model(folder).matrix(0, "o")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("shape", torch.tensor([512, 512]), r"says \[512, 512\], the model has \[256, 256\]"),
        ("shape", torch.tensor([1, 2]), r"says \[1, 2\], the model has"),
        ("packed", torch.zeros(256, 16), "is F32, expected I32"),
        ("packed", torch.zeros(256, 16, dtype=torch.int64), "is I64, expected I32"),
    ],
)
def test_damaged_tensors_are_refused(name, value, told, copied, source, ids):
    """When the folder is opened, so that a proof refuses it too."""
    folder, name = copied("phi3-group64"), f"model.layers.0.self_attn.o_proj.weight_{name}"
    tensors = load_file(folder / "model.safetensors") | {name: value}
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(LoadError, match=f"{name} {told}"):
        open_model(folder)
    with pytest.raises(ExportError, match=f"{name} {told}"):
        verify(source("phi3-group64"), folder, ids)
