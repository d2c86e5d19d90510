"""Sources are checked when they are opened: configuration, tensors, values, tokenizer; nothing is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers

import bitnet_arch
from bitnet_arch.families import check_settings
from bitnet_arch.hub import snapshot
from bitnet_arch.sources import make_smollm

SMALL = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
FAMILIES = ("tiny_llama", "tiny_qwen2", "tiny_qwen3", "tiny_mistral")
LLAMA = {"model_type": "llama", "hidden_act": "silu", "max_position_embeddings": 4096}
IDS = torch.arange(512).view(2, 256) % 300
GENERATION = {"eos_token_id": [2, 7, 9], "temperature": 0.6, "top_p": 0.9, "top_k": 20, "pad_token_id": 2}
"""A temperature without do_sample, as Llama 2 has it: transformers refuses to write that."""


@pytest.fixture
def make_dense(request, tmp_path, byte_tokenizer):
    """make_dense(family, **config): folder of a random model with a byte tokenizer."""

    def make(family: str = "tiny_llama", **extra: object) -> Path:
        folder = tmp_path / "dense"
        request.getfixturevalue(family)(**SMALL | extra).save_pretrained(folder)
        byte_tokenizer("{{ messages }}").save_pretrained(folder)
        return folder

    return make


def edit_state(folder: Path, edit: Any) -> None:
    state = load_file(folder / "model.safetensors")
    edit(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def edit_json(path: Path, **values: object) -> None:
    contents = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(contents | values))


def opened(folder: Path) -> tuple[Any, Any]:
    return bitnet_arch.load_dense("path", str(folder))


QUANTIZED = {
    "gptq": ({"quant_method": "gptq", "bits": 4}, "GPTQ"),
    "awq": ({"quant_method": "awq", "bits": 4}, "AWQ"),
    "compressed-tensors": ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
    "fp8": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "FP8"),
    "mxfp4": ({"quant_method": "mxfp4"}, "MXFP4"),
    "unknown": ({"quant_method": "hqq"}, "hqq"),
    "nameless": ({"bits": 4}, "an unnamed method"),
}


@pytest.mark.parametrize(("quantization", "called"), QUANTIZED.values(), ids=QUANTIZED)
def test_quantized_sources_are_refused_by_name(quantization, called, tmp_path) -> None:
    """Of config.json alone: there are no weights in the folder."""
    folder = tmp_path / "Qwen3-8B-FP8"
    folder.mkdir()
    edit_json(folder / "config.json", **LLAMA, quantization_config=quantization)
    with pytest.raises(
        bitnet_arch.SourceError, match=rf"quantized already \({called}\).*original \(Qwen3-8B\)"
    ) as e:
        bitnet_arch.open_dense("path", str(folder))
    assert e.value.exit_code == 2
    edit_json(folder / "config.json", _name_or_path="meta-llama/Llama-3.1-8B")
    with pytest.raises(bitnet_arch.SourceError, match=r"original \(meta-llama/Llama-3\.1-8B\)"):
        opened(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "bitnet"}, "ternary from birth.*wf serve --model"),
        (
            {
                "model_type": "bitnet",
                "quantization_config": {"quant_method": "bitnet", "quantization_mode": "online"},
            },
            "ternary from birth",
        ),
        (
            {"model_type": "bitnet", "quantization_config": {"quant_method": "bitnet"}},
            "packed ternary weights.*wf serve.*microsoft/bitnet-b1.58-2B-4T-bf16",
        ),
        ({"quantization_config": {"quant_method": "bitnet"}}, "Falcon-E: prequantized"),
        ({"quantization_config": {"quant_method": "wrinklefree_packed"}}, "export.*the checkpoint"),
        ({"quantization_config": {"quant_method": "wrinklefree"}}, r"wrinklefree\.json is missing"),
    ],
)
def test_ternary_sources_are_told_where_to_go(settings, message, tmp_path) -> None:
    edit_json(tmp_path / "config.json", **LLAMA | settings)
    with pytest.raises(bitnet_arch.SourceError, match=message):
        bitnet_arch.open_dense("path", str(tmp_path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "t5", "is_encoder_decoder": True}, "'t5' is an encoder-decoder"),
        (
            {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}, "vision_config": {}},
            r"'gemma3' is multimodal \(text_config, vision_config.*\(gemma3_text\) alone",
        ),
        ({"model_type": "llava", "text_config": {"model_type": "llama"}}, r"multimodal.*\(llama\) alone"),
        ({"model_type": "mllama", "vision_config": {}}, "multimodal"),
        ({"model_type": "mixtral", "num_local_experts": 8}, "mixture of experts.*num_local_experts=8"),
        ({"model_type": "qwen3_moe", "num_experts": 128}, "mixture of experts"),
        ({"model_type": "deepseek_v3", "n_routed_experts": 256}, "mixture of experts"),
        ({"model_type": "mamba"}, "model type 'mamba' cannot be converted; known: llama"),
        ({"model_type": None}, "model type None"),
        ({"model_type": ["llama"]}, r"model type \['llama'\]"),
        ({"hidden_act": "relu2"}, "activation 'relu2'"),
        ({"max_position_embeddings": 1}, "max_position_embeddings=1"),
    ],
)
def test_other_builds_are_refused_from_the_configuration(settings, message) -> None:
    with pytest.raises(bitnet_arch.UnsupportedModelError, match=message) as error:
        check_settings(LLAMA | settings)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_of_its_own_is_kept(family, make_dense, tmp_path) -> None:
    """config.json says tied, the file holds another head: loaded, converted and saved it is there."""
    folder = make_dense(family)
    head = torch.randn(300, 64)
    edit_state(folder, lambda state: state.update({"lm_head.weight": head}))
    model, tokenizer = opened(folder)
    assert not model.config.tie_word_embeddings
    bitnet_arch.convert(model, bitnet_arch.ConversionConfig(bitnet_arch.quantizer("group64"), False))
    bitnet_arch.save_checkpoint(model, tokenizer, tmp_path / "converted", {})
    again = bitnet_arch.load_checkpoint(tmp_path / "converted").model
    assert torch.equal(again.lm_head.weight, head)
    assert not json.loads((tmp_path / "converted" / "config.json").read_text())["tie_word_embeddings"]


def test_what_old_files_hold_twice_is_no_harm(make_dense) -> None:
    folder = make_dense()
    frequencies = 1 / 10000 ** (torch.arange(0, 16, 2) / 16)
    edit_state(
        folder,
        lambda state: state.update(
            {
                "lm_head.weight": state["model.embed_tokens.weight"].clone(),
                "model.layers.0.self_attn.rotary_emb.inv_freq": frequencies.half(),
            }
        ),
    )
    assert opened(folder)[0].config.tie_word_embeddings


NORM, UP = "model.norm.weight", "model.layers.1.mlp.up_proj.weight"
DAMAGE = {
    "superfluous": (
        lambda s: s.update({"model.foo.weight": torch.ones(3)}),
        r"model\.foo\.weight has no place",
    ),
    "missing": (lambda s: s.pop(NORM), r"model\.norm\.weight is missing"),
    "misshapen": (lambda s: s.update({NORM: torch.ones(32)}), r"model\.norm\.weight has the shape \[32\]"),
    "other frequencies": (
        lambda s: s.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}),
        "inv_freq has no place",
    ),
    "NaN": (lambda s: s[UP].view(-1)[5].fill_(float("nan")), r"up_proj\.weight holds NaN or Inf"),
    "Inf": (lambda s: s[NORM][3].fill_(-float("inf")), r"model\.norm\.weight holds NaN or Inf"),
    "integers": (lambda s: s.update({UP: s[UP].to(torch.int8)}), "up_proj.weight is I8: quantized weights"),
    "fp8": (lambda s: s.update({UP: s[UP].to(torch.float8_e4m3fn)}), "is F8_E4M3: quantized weights"),
    "a layer less": (
        lambda s: [s.pop(name) for name in list(s) if ".layers.1." in name],
        "num_hidden_layers=2, the files hold 1 layers",
    ),
}


@pytest.mark.parametrize(("edit", "message"), DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("family", ["tiny_llama", "tiny_qwen3"])
def test_every_tensor_has_its_place_shape_and_values(family, edit, message, make_dense) -> None:
    folder = make_dense(family)
    edit_state(folder, edit)
    with pytest.raises(bitnet_arch.SourceError, match=message):
        opened(folder)


CONFIG_DAMAGE = {
    "layers": {"num_hidden_layers": 10**9},
    "vocabulary": {"vocab_size": 200},
    "width": {"hidden_size": 128},
    "no number": {"num_attention_heads": "many"},
    "zero heads": {"num_attention_heads": 0},
    "activation": {"hidden_act": "silu2"},
    "no activation": {"hidden_act": ["silu"]},
    "rope": {"rope_parameters": {"rope_type": "spiral"}},
    "rotary factor": {"rope_parameters": {"rope_type": "linear", "factor": 0, "rope_theta": 1e4}},
    "dtypes": {"dtype": ["float32"]},
    "flag": {"use_cache": None},
}


@pytest.mark.parametrize("values", CONFIG_DAMAGE.values(), ids=CONFIG_DAMAGE)
def test_a_configuration_of_another_model_is_one_error(values, make_dense) -> None:
    folder = make_dense()
    edit_json(folder / "config.json", **values)
    with pytest.raises(bitnet_arch.SourceError) as error:
        opened(folder)
    assert "\n" not in str(error.value)
    assert "KeyError" not in str(error.value)
    source = bitnet_arch.open_dense("path", str(folder))
    with pytest.raises((bitnet_arch.SourceError, bitnet_arch.UnsupportedModelError)):  # without the weights
        source.check_convertible(), source.tokenizer, opened(folder)


@pytest.mark.parametrize(
    "values",
    [
        {"rope_theta": None, "rope_parameters": None},
        {"rope_theta": None, "rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": None}},
        {"initializer_range": None},
    ],
)
def test_null_where_transformers_takes_none_is_named(values, make_dense) -> None:
    """Before any weight is read."""
    folder = make_dense()
    edit_json(folder / "config.json", **values)
    source = bitnet_arch.open_dense("path", str(folder))
    source.check_convertible()
    key = "initializer_range" if "initializer_range" in values else "rope_theta"
    with pytest.raises(bitnet_arch.SourceError, match=rf"{key}.*leave .* out, or give"):
        _ = source.tokenizer


def test_a_key_that_is_null_is_named_where_the_model_cannot_be_built(make_dense) -> None:
    folder = make_dense("tiny_qwen2")
    edit_json(folder / "config.json", head_dim=None)
    with pytest.raises(bitnet_arch.SourceError, match=r"null there is .*head_dim.*leave such keys out"):
        opened(folder)


def test_code_of_a_repository_is_never_asked_for(make_dense, monkeypatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    folder = make_dense()
    edit_json(
        folder / "config.json",
        auto_map={"AutoModelForCausalLM": "modeling_x.X", "AutoConfig": "modeling_x.C"},
    )
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling_x.T", None]})
    opened(folder)  # a stock model type needs no code
    edit_json(folder / "config.json", model_type="mystery")
    with pytest.raises(bitnet_arch.SourceError, match="describes no model that can be run"):
        opened(folder)


def sharded(folder: Path, weight_map: object, *, twice: bool = False) -> None:
    """The weights in two files with that index; `twice`: one tensor is in both."""
    state = load_file(folder / "model.safetensors")
    parts: list[dict[str, torch.Tensor]] = [{}, {}]
    for number, name in enumerate(sorted(state)):
        parts[number % 2][name] = state[name]
    if twice:
        parts[1] |= {name: parts[0][name] * 2 for name in list(parts[0])[:1]}
    for number, part in enumerate(parts):
        save_file(part, folder / f"model-{number}.safetensors", metadata={"format": "pt"})
    right = {name: f"model-{number}.safetensors" for number, part in enumerate(parts) for name in part}
    contents = {"metadata": {}, "weight_map": right} if weight_map is None else weight_map
    (folder / "model.safetensors.index.json").write_text(json.dumps(contents))
    (folder / "model.safetensors").unlink()


INDEXES = {
    "a list": ([1, 2], "holds a JSON list"),
    "no map": ({"weight_map": ["model-0.safetensors"]}, "weight_map does not map"),
    "upwards": ({"weight_map": {NORM: "../model-0.safetensors"}}, "names of files in its folder"),
    "absolute": ({"weight_map": {NORM: "/etc/passwd"}}, "names of files in its folder"),
    "numbers": ({"weight_map": {NORM: 3}}, "names of files in its folder"),
    "incomplete": ({"weight_map": {NORM: "model-0.safetensors"}}, "does not list the tensors"),
    "a file less": ({"weight_map": {NORM: "model-7.safetensors"}}, r"model-7\.safetensors is missing"),
}


@pytest.mark.parametrize(("contents", "message"), INDEXES.values(), ids=INDEXES)
def test_an_index_is_not_trusted(contents, message, make_dense) -> None:
    folder = make_dense()
    sharded(folder, contents)
    with pytest.raises(bitnet_arch.SourceError, match=message):
        opened(folder)


def test_shards_hold_each_tensor_once(make_dense) -> None:
    folder = make_dense()
    whole = (folder / "model.safetensors").read_bytes()
    sharded(folder, None)
    opened(folder)
    (folder / "model.safetensors").write_bytes(whole)
    with pytest.raises(bitnet_arch.SourceError, match="two sets of weights"):
        opened(folder)
    sharded(folder, None, twice=True)
    with pytest.raises(bitnet_arch.SourceError, match="each once"):
        opened(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth"])
def test_pickled_weights_are_never_opened(name, make_dense) -> None:
    folder = make_dense()
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(bitnet_arch.SourceError, match=rf"{name} is there, .*with safetensors"):
        opened(folder)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scheme", ["tensor", "group64"])
def test_generation_settings_stay(family, scheme, make_dense, tmp_path) -> None:
    folder = make_dense(family)
    (folder / "generation_config.json").write_text(json.dumps(GENERATION))
    model, tokenizer = opened(folder)
    for stage in ("stage1", "stage2"):
        if stage == "stage1":
            bitnet_arch.convert(model, bitnet_arch.ConversionConfig(bitnet_arch.quantizer(scheme)), IDS)
        bitnet_arch.save_checkpoint(model, tokenizer, tmp_path / stage, {})
        kept = json.loads((tmp_path / stage / "generation_config.json").read_text())
        assert {key: kept.get(key) for key in GENERATION} == GENERATION
        model = bitnet_arch.load_checkpoint(tmp_path / stage).model
    assert tokenizer.chat_template == "{{ messages }}"


@pytest.mark.parametrize(
    "contents",
    ["[1]", "{", "\x00", '{"eos_token_id": {"a": 1}}', '{"temperature": "hot"}', '{"cache_config": 3}'],
)
def test_damaged_generation_settings_are_named(contents, make_dense) -> None:
    """When the small files are asked for, and when the weights are."""
    folder = make_dense()
    (folder / "generation_config.json").write_text(contents)
    if "cache_config" in contents:  # odd, and nobody's business before sampling
        opened(folder)
        return
    for read in (opened, lambda folder: bitnet_arch.open_dense("path", str(folder)).tokenizer):
        with pytest.raises(bitnet_arch.SourceError, match=r"generation_config\.json"):
            read(folder)


def test_sampling_never_stops_a_source(make_dense, tmp_path) -> None:
    folder = make_dense()
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    odd = {"pad_token_id": rows, "top_k": -1, "top_p": 0.0, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(odd))
    bitnet_arch.save_checkpoint(*opened(folder), tmp_path / "saved", {})
    kept = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert kept["top_k"] == 1
    assert not kept.keys() & {"pad_token_id", "top_p"}


def test_a_tokenizer_without_its_vocabulary(make_dense) -> None:
    folder = make_dense()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(bitnet_arch.SourceError, match=r"tokenizer\.json is missing"):
        opened(folder)
    (folder / "tokenizer_config.json").unlink()
    assert opened(folder)[1] is None


@pytest.mark.parametrize("contents", ["{", "[]", '{"model": {"type": "BPE"}}'])
def test_a_damaged_tokenizer_is_one_line(contents, make_dense) -> None:
    folder = make_dense()
    (folder / "tokenizer.json").write_text(contents)
    with pytest.raises(bitnet_arch.SourceError, match=r"tokenizer\.json") as error:
        opened(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("vocab_size", "token", "template", "fits"),
    [
        (300, "<more>", None, True),
        (259, "<image>", None, True),
        (258, None, None, False),
        (259, "<turn>", "<turn>{{ messages }}", False),
    ],
)
def test_the_model_has_a_row_for_every_token(
    vocab_size, token, template, fits, make_dense, byte_tokenizer
) -> None:
    """Tokens that neither text nor the chat template makes may lie beyond, as Gemma 3's image does."""
    folder = make_dense(vocab_size=vocab_size)
    tokenizer = byte_tokenizer(template)
    tokenizer.add_special_tokens({"additional_special_tokens": []})
    if token:
        from tokenizers import AddedToken

        tokenizer.add_tokens([AddedToken(token, special=True)], special_tokens=True)
    tokenizer.save_pretrained(folder)
    if fits:
        opened(folder)
        return
    with pytest.raises(
        bitnet_arch.SourceError, match=f"id {vocab_size}, and the model's vocabulary has {vocab_size} "
    ):
        opened(folder)


def test_layers_of_zeros_can_be_fitted(tiny_llama) -> None:
    model = tiny_llama(**SMALL)
    with torch.no_grad():
        model.model.layers[0].self_attn.v_proj.weight.zero_()
        model.model.layers[1].mlp.down_proj.weight.zero_()
    bitnet_arch.convert(model, bitnet_arch.ConversionConfig(), IDS)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


@pytest.fixture
def cached_hub(tmp_path, monkeypatch):
    """The hub's cache without a network; returns the folder of the snapshot of org/name."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    return repository / "snapshots" / ("0" * 40)


def test_hub_models_are_read_as_folders(cached_hub, make_dense) -> None:
    shutil.copytree(make_dense(), cached_hub)
    assert snapshot("org/name") == cached_hub
    source = bitnet_arch.open_dense("hub", "org/name")
    assert (source.settings["model_type"], source.revision) == ("llama", "0" * 40)
    model, tokenizer = bitnet_arch.load_dense("hub", "org/name")
    assert torch.equal(model.model.norm.weight, opened(cached_hub)[0].model.norm.weight)
    assert tokenizer.eos_token == "</s>"


@pytest.mark.parametrize("name", ["org/other", "no such/name at all", "../../etc", "a" * 300])
def test_what_the_hub_does_not_give_is_one_line(name, cached_hub) -> None:
    with pytest.raises(bitnet_arch.SourceError, match=r"^hub model .*model\.source=path") as error:
        bitnet_arch.load_dense("hub", name)
    assert "\n" not in str(error.value)


def test_the_packaged_tokenizer_is_the_same_whichever_transformers_reads_it(packaged_model_dir: Path) -> None:
    written = (packaged_model_dir / "tokenizer.json").read_text()
    expected, read = (Tokenizer.from_str(written) for _ in range(2))
    read.model.byte_fallback = read.model.fuse_unk = True
    read.model.unk_token = "<unk>"
    read.normalizer = normalizers.Sequence([])
    read.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    read.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("▁", " ")])
    assert read.to_str() != expected.to_str()
    make_smollm(read)
    assert read.to_str() == expected.to_str()
