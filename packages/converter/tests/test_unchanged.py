"""What an export has besides ternary matrices: the checkpoint's passes, what was changed is named."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants
from safetensors.torch import load_file, save_file

from wf_converter.checkpoint import open_checkpoint
from wf_converter.errors import ExportError
from wf_converter.gguf_export import prepare_gguf
from wf_converter.hf_export import prepare_hf
from wf_converter.runtimes import load_export
from wf_converter.unchanged import check_settings, wrong_tensors
from wf_converter.verify import open_export, verify
from wf_formats.errors import LoadError
from wf_formats.models import open_model

BIASES = "qwen2-group128"
HONEST = ["llama-tensor", "llama-group64-untied", BIASES, "qwen3-group64", "phi3-group64"]
"""With SubLN, a head of its own, biases, QK-norm, fused linears."""


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory):
    """An export with biases, not to be changed."""
    out = tmp_path_factory.mktemp("exports") / "out"
    prepare_hf(checkpoint(BIASES)).write(out)
    return out


@pytest.fixture
def changed(folder, tmp_path):
    """Factory: a copy of it with other tensors or configuration."""

    def make(change=lambda tensors: tensors, **settings):
        out = shutil.copytree(folder, tmp_path / "changed")
        tensors = load_file(out / "model.safetensors")
        save_file(change(tensors), out / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((out / "config.json").read_text()) | settings
        (out / "config.json").write_text(json.dumps(config))
        return out

    return make


def found_wrong(checkpoint, export):
    opened = open_checkpoint(checkpoint)
    return wrong_tensors(opened, open_export(opened, export, None))


@pytest.mark.parametrize("case", HONEST)
def test_honest_exports_have_it_all(case, checkpoint, tmp_path):
    for dtype in ("float32", "bfloat16"):
        prepare_hf(checkpoint(case), dtype=dtype).write(tmp_path / dtype)
        assert found_wrong(checkpoint(case), tmp_path / dtype) == []
    for kind in ("f16", "q8_0"):
        prepare_gguf(checkpoint(case), embeddings=kind).write(tmp_path / f"{kind}.gguf")
        assert found_wrong(checkpoint(case), tmp_path / f"{kind}.gguf") == []


@pytest.mark.parametrize(
    "name",
    [
        "model.norm.weight",
        "model.layers.1.post_attention_layernorm.weight",
        "model.layers.0.self_attn.q_proj.bias",
        "model.embed_tokens.weight",
    ],
)
def test_a_changed_tensor_is_named(name, checkpoint, changed):
    def change(tensors):
        tensors[name][-1] *= 1.003
        return tensors

    assert found_wrong(checkpoint(BIASES), changed(change)) == [name]


def test_weights_in_several_files_are_proved(checkpoint, folder, tmp_path, ids):
    out = tmp_path / "several"
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns("model.safetensors"))
    weight_map, tensors = {}, list(load_file(folder / "model.safetensors").items())
    for number, part in enumerate([tensors[::2], tensors[1::2]], 1):
        name = f"model-{number:05d}-of-00002.safetensors"
        save_file(dict(part), out / name, metadata={"format": "pt"})
        weight_map |= {key: name for key, _ in part}
    index = {"weight_map": weight_map}
    (out / "model.safetensors.index.json").write_text(json.dumps(index | {"metadata": {}}))
    assert verify(checkpoint(BIASES), out, ids).passed
    (out / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ExportError, match=r"transformers does not load .* \(KeyError: 'metadata'\)"):
        verify(checkpoint(BIASES), out, ids)


def test_it_is_no_proof(checkpoint, changed, ids):
    """Though no log-prob of the text shows it."""

    def change(tensors):
        row = next(token for token in range(512) if token not in ids)
        tensors["model.embed_tokens.weight"][row] *= 1.01
        return tensors

    found = verify(checkpoint(BIASES), changed(change), ids)
    assert found.problems == [
        "tensors that are not quantized differ (1), the first is model.embed_tokens.weight"
    ]


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
@pytest.mark.parametrize("name", ["output_norm.weight", "blk.1.attn_q.bias", "token_embd.weight"])
def test_a_changed_tensor_of_gguf_is_named(name, kind, checkpoint, tmp_path):
    export = prepare_gguf(checkpoint(BIASES), embeddings=kind)

    def change(plan):
        def produce():
            stored = GGMLQuantizationType[plan.type_name.upper()]
            values = quants.dequantize(plan.produce(), stored)
            values[-1] *= 1.003
            return quants.quantize(np.ascontiguousarray(values, np.float32), stored)

        return dataclasses.replace(plan, produce=produce) if plan.name == name else plan

    dataclasses.replace(export, tensors=[*map(change, export.tensors)]).write(tmp_path / "model.gguf")
    assert found_wrong(checkpoint(BIASES), tmp_path / "model.gguf") == [name]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_position_embeddings", 40),
        ("rms_norm_eps", 1e-5),
        ("rope_theta", 123.0),
        ("rope_parameters", {"rope_type": "default", "rope_theta": 123.0}),
        ("architectures", ["BitNetForCausalLM"]),
        ("architectures", None),
        ("auto_map", {"AutoModelForCausalLM": "code.Model"}),
        ("attention_multiplier", 3),
    ],
)
def test_a_changed_setting_is_named(key, value, checkpoint, changed):
    with pytest.raises(ExportError, match=f"is no export of .*: {key} is "):
        found_wrong(checkpoint(BIASES), changed(**{key: value}))


def test_another_family_of_the_same_tensors_is_named(checkpoint, tmp_path):
    source, out = checkpoint("llama-group64-untied"), tmp_path / "out"
    prepare_hf(source).write(out)
    config = json.loads((out / "config.json").read_text()) | {"model_type": "mistral"}
    (out / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExportError, match="model_type is 'mistral' there and 'llama' in the checkpoint"):
        found_wrong(source, out)


def test_what_users_set_is_theirs(checkpoint, changed):
    assert found_wrong(checkpoint(BIASES), changed(eos_token_id=[2, 7], use_cache=False)) == []


def test_settings_of_gguf_are_compared(checkpoint, tmp_path):
    prepare_gguf(checkpoint("llama-group64")).write(tmp_path / "model.gguf")
    opened = open_model(tmp_path / "model.gguf")
    other = dataclasses.replace(opened, config=dataclasses.replace(opened.config, context_tokens=40))
    with pytest.raises(ExportError, match="context_tokens is 40 there and 512 in the checkpoint"):
        check_settings(open_checkpoint(checkpoint("llama-group64")), tmp_path / "model.gguf", other)


@pytest.mark.parametrize(
    ("name", "dtype", "told"),
    [
        ("model.layers.0.self_attn.q_proj.weight", torch.int16, "is I16, expected U8"),
        ("model.layers.0.self_attn.q_proj.weight_scale", torch.int32, "is I32, expected F64, F32"),
        ("model.norm.weight", torch.int64, "is I64, expected F64, F32"),
    ],
)
def test_tensors_of_other_dtypes_are_refused(name, dtype, told, checkpoint, changed, ids):
    out = changed(lambda tensors: tensors | {name: tensors[name].to(dtype)})
    with pytest.raises(LoadError, match=f"{name} {told}"):
        open_model(out)
    with pytest.raises(ExportError, match=f"{name} {told}"):
        verify(checkpoint(BIASES), out, ids)


def test_a_tensor_that_transformers_would_make_up_is_refused(changed):
    def change(tensors):
        del tensors["model.norm.weight"]
        return tensors

    with pytest.raises(ExportError, match=r"does not find model\.norm\.weight in"):
        load_export(changed(change))
