"""Folders of block-diffusion models: exact round trips, and what others and damage make of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from bitnet_arch import (
    CheckpointError,
    ConversionConfig,
    convert,
    install_low_rank,
    load_checkpoint,
    open_dense,
    quantizer,
    save_checkpoint,
)
from bitnet_arch.block_masks import block_causal_mask
from bitnet_arch.diffusion_model import block_diffusion_of, to_block_diffusion
from wf_formats.diffusion import MASK_TOKEN
from wf_formats.errors import LoadError
from wf_formats.models.hf_model import open_hf_model

NUM_TOKENS, BLOCK = 259, 8
IDS = torch.randint(3, NUM_TOKENS, (8, 96), generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    visible = block_causal_mask(24, BLOCK)[None, None]
    found: torch.Tensor = model(input_ids=IDS[:2, :24], attention_mask=visible).logits
    return found


def dense(model: Any) -> Any:
    return model


def by(scheme: str, low_rank: int = 0) -> Callable[[Any], Any]:
    def make(model: Any) -> Any:
        convert(model, ConversionConfig(quantizer(scheme)), IDS)
        if low_rank:
            install_low_rank(model, low_rank)
        return model

    return make


@pytest.fixture
def saved(byte_tokenizer: Any, tmp_path: Path) -> Callable[..., tuple[Any, Path]]:
    """A block-diffusion model, and its folder."""

    def make(model: Any, change: Callable[[Any], Any] = dense) -> tuple[Any, Path]:
        tokenizer = byte_tokenizer()
        to_block_diffusion(change(model), tokenizer, BLOCK)
        save_checkpoint(model, tokenizer, tmp_path / "checkpoint", {"stage": "dlm"})
        return model, tmp_path / "checkpoint"

    return make


@pytest.mark.parametrize(
    ("family", "change", "base"),
    [
        ("tiny_llama", dense, "llama"),
        ("tiny_llama", by("tensor"), "bitnet"),
        ("tiny_llama", by("tensor", low_rank=3), "llama"),
        ("tiny_qwen3", by("tensor"), "qwen3"),
        ("tiny_qwen2", by("group64"), "qwen2"),
    ],
)
def test_a_folder_says_what_it_is_and_comes_back_to_the_bit(
    family: str, change: Any, base: str, saved: Any, request: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model, folder = saved(request.getfixturevalue(family)(vocab_size=NUM_TOKENS), change)
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "block_diffusion"
    assert config["base_model_type"] == base
    assert config["architectures"] == ["BlockDiffusionForCausalLM"]
    assert config["block_diffusion"] == {"block_size": 8, "mask_token_id": NUM_TOKENS, "token_shift": True}
    loaded = load_checkpoint(folder)
    assert type(loaded.model) is type(model)
    assert block_diffusion_of(loaded.model) == block_diffusion_of(model)
    assert loaded.tokenizer.mask_token == MASK_TOKEN
    assert loaded.tokenizer.mask_token_id == NUM_TOKENS
    expected = model.state_dict()
    assert loaded.model.state_dict().keys() == expected.keys()
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert torch.equal(logits(loaded.model), logits(model))
    assert not caplog.records  # transformers warns of types that it does not know
    again = folder.parent / "again"
    save_checkpoint(loaded.model, loaded.tokenizer, again, {"stage": "dlm"})
    assert json.loads((again / "config.json").read_text()) == config | {"dtype": "float32"}


@pytest.mark.parametrize("change", [dense, by("tensor"), by("group64")])
def test_transformers_refuses_a_folder_by_its_type(tiny_llama: Any, saved: Any, change: Any) -> None:
    _, folder = saved(tiny_llama(vocab_size=NUM_TOKENS), change)
    with pytest.raises(ValueError, match="model type `block_diffusion` but Transformers does not recognize"):
        transformers.AutoModelForCausalLM.from_pretrained(folder)


def test_a_folder_is_a_source_like_another(tiny_llama: Any, saved: Any) -> None:
    model, folder = saved(tiny_llama(vocab_size=NUM_TOKENS))
    source = open_dense("path", str(folder))
    source.check_convertible()
    assert source.understood["block_diffusion"] == source.settings["block_diffusion"]
    found, tokenizer = source.load()
    assert torch.equal(logits(found), logits(model))
    assert tokenizer.mask_token_id == NUM_TOKENS


BLOCKS = {"block_size": 8, "mask_token_id": NUM_TOKENS}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"model_type": "llama"}, "block_diffusion is of a block-diffusion model, and model_type is 'llama'"),
        ({"model_type": "llama", "block_diffusion": None}, "base_model_type is of a block-diffusion model"),
        ({"base_model_type": None}, "base_model_type is None, not the model type"),
        ({"base_model_type": "block_diffusion"}, "base_model_type is 'block_diffusion', not"),
        ({"base_model_type": "no_such"}, "'no_such'"),
        ({"block_diffusion": None}, "model_type is 'block_diffusion', and block_diffusion is missing"),
        ({"block_diffusion": {"block_size": 8}}, "its entries are block_size, mask_token_id, token_shift"),
        ({"block_diffusion": BLOCKS | {"block_size": 0}}, "block_size is 0"),
        ({"block_diffusion": BLOCKS | {"block_size": 513}}, "block_size is 513, the model's context 512"),
        ({"block_diffusion": BLOCKS | {"mask_token_id": 260}}, "mask_token_id is 260, the model's vocab"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(
    tiny_llama: Any, saved: Any, changes: dict[str, Any], error: str
) -> None:
    _, folder = saved(tiny_llama(vocab_size=NUM_TOKENS), by("tensor"))
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(CheckpointError, match=error):
        load_checkpoint(folder)
    with pytest.raises(LoadError, match=error):
        open_hf_model(folder, lambda weight, scheme: weight)
