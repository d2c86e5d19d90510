"""Exported Hugging Face folders in transformers against the checkpoint: per-token log-probs.

No runtime rounds differently here, so an exact integer product agrees to 1e-5. Where transformers
sums floats (`bitlinear` and `autobitlinear` compute W x in fp32), an int8 rounding of the next layer
flips now and then: measured up to 0.011 nats on average (llama-tensor, autobitlinear), 4e-7 without
flips. All scales off by 1 % give 0.05 and more.
"""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import bitnet_arch
from wf_converter.checkpoint import open_checkpoint
from wf_converter.errors import ExportError
from wf_converter.hf_export import prepare_hf
from wf_converter.hf_packed import unpack_on_device
from wf_converter.reference import reference_model
from wf_converter.scores import Difference, torch_scores
from wf_converter.unchanged import check_settings
from wf_formats.models import open_model
from wf_formats.packed_codes import pack_inputs, pack_rows, unpack_inputs, unpack_rows

TOLERANCE = 0.02
BITNET_CASES = ["llama-tensor", "llama-tensor-192", "mistral-tensor"]
PACKED_CASES = [
    "llama-group64",
    "llama-group64-untied",
    "mistral-group64-wide",
    "qwen2-group128",
    "qwen3-group64",
]


def scores_of(folder, ids):
    return torch_scores(transformers.AutoModelForCausalLM.from_pretrained(folder).eval(), ids)


def difference(checkpoint_folder, folder, ids):
    return Difference.between(torch_scores(reference_model(checkpoint_folder), ids), scores_of(folder, ids))


@pytest.mark.parametrize("linear_class", ["bitlinear", "autobitlinear"])
@pytest.mark.parametrize("case", BITNET_CASES)
def test_bitnet_folder_agrees(checkpoint, ids, tmp_path, case, linear_class):
    prepare_hf(checkpoint(case), linear_class).write(tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(model) is transformers.BitNetForCausalLM
    found = difference(checkpoint(case), tmp_path / "out", ids)
    assert found.mean_abs_delta < TOLERANCE, found
    assert found.top1_agreement > 0.97, found


@pytest.mark.parametrize("case", PACKED_CASES)
def test_packed_folder_is_exact(checkpoint, ids, tmp_path, case):
    """Same integer product, same bits: only the reference's other dtype paths may differ."""
    prepare_hf(checkpoint(case)).write(tmp_path / "out")
    found = difference(checkpoint(case), tmp_path / "out", ids)
    assert found.max_abs_delta < 1e-4, found


def multiply_scales(folder, factor):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name in tensors:
        if name.endswith("weight_scale"):
            tensors[name] = tensors[name] * factor
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("factor", [1.01, 1 / 1.01])
@pytest.mark.parametrize(
    ("case", "linear_class"),
    [("llama-tensor", "bitlinear"), ("llama-tensor", "autobitlinear"), ("qwen3-group64", "bitlinear")],
)
def test_scales_off_by_one_percent_are_caught(checkpoint, ids, tmp_path, case, linear_class, factor):
    prepare_hf(checkpoint(case), linear_class).write(tmp_path / "out")
    multiply_scales(tmp_path / "out", factor)
    found = difference(checkpoint(case), tmp_path / "out", ids)
    assert found.mean_abs_delta > 1.4 * TOLERANCE, found


def test_the_conventions_are_reciprocal(checkpoint, tmp_path):
    name = "model.layers.0.mlp.down_proj.weight_scale"
    scales = {}
    for linear_class in ("bitlinear", "autobitlinear"):
        folder = tmp_path / linear_class
        prepare_hf(checkpoint("llama-tensor"), linear_class).write(folder)
        scales[linear_class] = load_file(folder / "model.safetensors")[name]
    torch.testing.assert_close(scales["bitlinear"], 1 / scales["autobitlinear"])


def test_packing_is_that_of_transformers():
    from transformers.integrations.bitnet import pack_weights, unpack_weights

    codes = torch.randint(-1, 2, (12, 10), dtype=torch.int8)
    expected = pack_weights(codes.clone())
    packed = pack_rows(codes.numpy())
    torch.testing.assert_close(torch.from_numpy(packed), expected)
    assert (unpack_rows(packed) == unpack_weights(expected, torch.int8).numpy()).all()
    with pytest.raises(ValueError, match="6 rows are not a multiple of 4"):
        pack_rows(codes[:6].numpy())


def test_packed_codes_and_scales_are_those_of_the_checkpoint(checkpoint, tmp_path):
    opened = open_checkpoint(checkpoint("qwen3-group64"))
    prepare_hf(opened.folder).write(tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    names = [name for name in opened.files if opened.is_quantized(name)]
    for name in names:
        matrix = opened.matrix(name)
        assert (unpack_inputs(tensors[name].numpy()) == matrix.codes).all(), name
        assert (tensors[f"{name}_scale"].numpy() == matrix.scales).all(), name


def test_packed_byte_by_hand():
    codes = torch.tensor([[-1, 0, 1, 1]], dtype=torch.int8)
    packed = torch.from_numpy(pack_inputs(codes.numpy()))
    assert packed.tolist() == [[0b10100100]]
    assert torch.equal(unpack_on_device(packed), codes)
    assert (unpack_inputs(packed.numpy()) == codes.numpy()).all()


@pytest.mark.parametrize("case", ["llama-tensor", "qwen2-group128"])
def test_bfloat16_folder_runs(checkpoint, ids, tmp_path, case):
    prepare_hf(checkpoint(case), dtype="bfloat16").write(tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.bfloat16
    assert torch.isfinite(model(torch.tensor([ids])).logits).all()


def test_tokenizer_and_record_come_along(checkpoint, tmp_path):
    folder = checkpoint("llama-tensor")
    prepare_hf(folder).write(tmp_path / "out")
    record = json.loads((tmp_path / "out" / "wrinklefree.json").read_text())
    assert record["stage"] == "stage2"
    assert record["export"]["layout"] == "bitnet (bitlinear)"
    ours = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "hi"}]
    assert ours.apply_chat_template(messages) == theirs.apply_chat_template(messages)


def test_the_class_is_named_where_the_model_came_without_its_name(checkpoint, tmp_path):
    """vLLM and SGLang find the model by it; configurations that were read from GGUF have none."""
    folder = checkpoint("llama-group64")
    assert "architectures" not in json.loads((folder / "config.json").read_text())
    prepare_hf(folder).write(tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["architectures"] == ["LlamaForCausalLM"]
    check_settings(open_checkpoint(folder), tmp_path / "out", open_model(tmp_path / "out"))


@pytest.mark.parametrize("scheme", ["tensor", "group64"])
def test_what_a_model_came_with_is_there_at_the_end(checkpoint, tiny_llama, scheme, ids, tmp_path):
    """Source -> conversion -> export: sampling settings, templates and special tokens."""
    source, converted, out = (tmp_path / name for name in ("source", "converted", "out"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint(f"llama-{scheme}"))
    tokenizer.chat_template = {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
    tiny_llama().save_pretrained(source)
    tokenizer.save_pretrained(source)
    settings = {"eos_token_id": [2, 7], "temperature": 0.6, "top_p": 0.9, "pad_token_id": 2}
    (source / "generation_config.json").write_text(json.dumps(settings))
    model, tokenizer = bitnet_arch.load_dense("path", str(source))
    conversion = bitnet_arch.ConversionConfig(bitnet_arch.quantizer(scheme))
    bitnet_arch.convert(model, conversion, torch.tensor(ids * 6)[None])
    bitnet_arch.save_checkpoint(model, tokenizer, converted, {"stage": "stage1"})
    for _ in range(2):  # the second replaces what the first wrote
        prepare_hf(converted).write(out)
    found = json.loads((out / "generation_config.json").read_text())
    assert {key: found.get(key) for key in settings} == settings
    ours, theirs = map(transformers.AutoTokenizer.from_pretrained, (out, source))
    assert ours.chat_template == theirs.chat_template == tokenizer.chat_template
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert (
        "additional_chat_templates/tool_use.jinja"
        in json.loads((out / "wrinklefree.json").read_text())["export"]["files"]
    )


def test_what_has_no_packed_form_is_refused(checkpoint):
    with pytest.raises(ExportError, match=r"o_proj: a 'qwen3' model with scheme tensor and SubLN"):
        prepare_hf(checkpoint("qwen3-group64", scheme="tensor"))
    with pytest.raises(ExportError, match="unknown linear class 'linear'; known: bitlinear"):
        prepare_hf(checkpoint("llama-tensor"), "linear")
    with pytest.raises(ExportError, match="unknown dtype 'float16'"):
        prepare_hf(checkpoint("llama-tensor"), dtype="float16")
