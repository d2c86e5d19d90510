"""Checkpoint folders: exact round trips, stock transformers loading, atomicity, damage."""

import json

import pytest
import torch
import transformers

from bitnet_arch import (
    CheckpointError,
    ConversionConfig,
    convert,
    load_checkpoint,
    load_dense,
    quantizer,
    read_meta,
    save_checkpoint,
)
from wf_formats.atomic import atomic_folder, atomic_write_text

CASES = [
    (family, scheme)
    for family in ("tiny_llama", "tiny_mistral", "tiny_qwen2", "tiny_qwen3")
    for scheme in ("tensor", "group64")
]
IDS = torch.randint(0, 512, (8, 96), generator=torch.Generator().manual_seed(5))


def converted(model, scheme: str):
    convert(model, ConversionConfig(quantizer(scheme)), IDS)
    with torch.no_grad():  # floors of different sizes, as real models have
        for index, layer in enumerate(model.model.layers):
            if scheme == "tensor":
                layer.mlp.down_proj.sub_norm.log2_floor = 3 + index
                name = f"model.layers.{index}.mlp.down_proj"
                model.config.quantization_config.sub_norm_log2_floor[name] = 3 + index
    return model


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS[:2, :48]).logits


@pytest.mark.parametrize(("family", "scheme"), CASES)
def test_round_trip_is_exact(family, scheme, request, tmp_path) -> None:
    model = converted(request.getfixturevalue(family)(), scheme)
    save_checkpoint(model, None, tmp_path / "checkpoint", {"stage": "stage1", "step": 3})
    loaded = load_checkpoint(tmp_path / "checkpoint")
    assert loaded.meta["stage"] == "stage1"
    assert loaded.meta["conversion"]["scheme"] == scheme
    assert type(loaded.model) is type(model)
    for (name, mine), (_, other) in zip(
        model.state_dict().items(), loaded.model.state_dict().items(), strict=True
    ):
        assert torch.equal(mine, other), name
    assert torch.equal(logits(loaded.model), logits(model))


@pytest.mark.parametrize(("family", "scheme"), CASES)
def test_auto_model_loads_and_answers_the_same(family, scheme, request, tmp_path) -> None:
    model = converted(request.getfixturevalue(family)(), scheme)
    save_checkpoint(model, None, tmp_path / "checkpoint", {})
    stock = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint")
    # Float32 summation order differs: 1e-5, but where it tips the int8 rounding of an activation, which
    # moves that token's logits by up to 1e-2. A wrong scale, floor or norm would move every token.
    worst_per_token = (logits(stock) - logits(model)).abs().amax(-1)
    assert (worst_per_token < 2e-4).float().mean() > 0.9
    assert worst_per_token.max() < 0.05


def test_llama_with_sub_norm_is_a_stock_bitnet_folder(tiny_llama, tmp_path) -> None:
    save_checkpoint(converted(tiny_llama(), "tensor"), None, tmp_path / "checkpoint", {})
    config = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    assert config["architectures"] == ["BitNetForCausalLM"]
    assert config["quantization_config"]["quantization_mode"] == "online"
    stock = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint")
    assert type(stock).__module__ == "transformers.models.bitnet.modeling_bitnet"


@pytest.mark.parametrize(
    ("overrides", "stored_as"),
    [
        ({"head_dim": 64}, "bitnet"),
        ({"head_dim": 128}, "mistral"),
        ({"head_dim": 64, "sliding_window": 128}, "mistral"),
    ],
)
def test_mistral_is_bitnet_where_nothing_is_lost(tiny_mistral, overrides, stored_as, tmp_path) -> None:
    model = converted(tiny_mistral(**overrides), "tensor")
    save_checkpoint(model, None, tmp_path / "checkpoint", {})
    assert json.loads((tmp_path / "checkpoint" / "config.json").read_text())["model_type"] == stored_as
    loaded = load_checkpoint(tmp_path / "checkpoint").model
    assert type(loaded) is transformers.MistralForCausalLM
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("tied", [True, False])
def test_tied_and_untied_heads(tiny_llama, tied, tmp_path) -> None:
    model = converted(tiny_llama(tie_word_embeddings=tied), "tensor")
    save_checkpoint(model, None, tmp_path / "checkpoint", {})
    assert torch.equal(logits(load_checkpoint(tmp_path / "checkpoint").model), logits(model))


def test_sharded_files_are_read_back(tiny_llama, tmp_path) -> None:
    model = converted(tiny_llama(), "group64")
    save_checkpoint(model, None, tmp_path / "checkpoint", {}, max_shard_size="500KB")
    assert len(list((tmp_path / "checkpoint").glob("*.safetensors"))) > 2
    assert torch.equal(logits(load_checkpoint(tmp_path / "checkpoint").model), logits(model))


def test_dense_folders_load_too(tiny_llama, tmp_path) -> None:
    model = tiny_llama()
    model.save_pretrained(tmp_path / "dense")
    loaded = load_checkpoint(tmp_path / "dense")
    assert loaded.meta == {}
    assert torch.equal(logits(loaded.model), logits(model))
    assert torch.equal(logits(load_dense("path", str(tmp_path / "dense"))[0]), logits(model))


def test_damage_is_named(tiny_llama, tmp_path) -> None:
    folder = tmp_path / "checkpoint"
    with pytest.raises(CheckpointError, match="is not a folder"):
        load_checkpoint(folder)
    save_checkpoint(converted(tiny_llama(), "group64"), None, folder, {})
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated or damaged"):
        load_checkpoint(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        load_checkpoint(folder)
    (folder / "wrinklefree.json").write_text('{"format": 99}')
    with pytest.raises(CheckpointError, match="format 99"):
        read_meta(folder)
    (folder / "wrinklefree.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"wrinklefree\.json is damaged"):
        read_meta(folder)


def test_missing_tensors_are_refused(tiny_llama, tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "checkpoint"
    save_checkpoint(converted(tiny_llama(), "group64"), None, folder, {})
    state = load_file(folder / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        load_checkpoint(folder)


def test_an_interrupted_write_leaves_the_old_folder(tmp_path) -> None:
    target = tmp_path / "folder"
    with atomic_folder(target) as temporary:
        (temporary / "a").write_text("old")
    with pytest.raises(RuntimeError), atomic_folder(target) as temporary:  # noqa: PT012
        (temporary / "a").write_text("new")
        raise RuntimeError
    assert (target / "a").read_text() == "old"
    with atomic_folder(target) as temporary:
        (temporary / "b").write_text("new")
    assert [path.name for path in target.iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    atomic_write_text(tmp_path / "file", "x")
    assert (tmp_path / "file").read_text() == "x"


def test_sources_are_named_not_guessed(tmp_path) -> None:
    with pytest.raises(ValueError, match="'local'; known: hub, path, packaged"):
        load_dense("local")
    with pytest.raises(ValueError, match="needs a name"):
        load_dense("path")
    with pytest.raises(ValueError, match="not 'other'"):
        load_dense("packaged", "other")
    with pytest.raises(CheckpointError, match="is not a folder"):
        load_dense("path", str(tmp_path / "nowhere"))


def test_packaged_model_answers(packaged_model_dir, packaged_gguf) -> None:
    assert packaged_gguf.stat().st_size > 90e6
    model, tokenizer = load_dense("packaged")
    assert tokenizer.tokenize("in 1969") == ["in", "Ġ", "1", "9", "6", "9"]
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt")
    answer = model.generate(**ids, max_new_tokens=8, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0, ids["input_ids"].shape[1] :])
