"""Low-rank corrections: the layer, its checkpoints, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import transformers

import bitnet_arch
from bitnet_arch import (
    BitLinear,
    BitLinearLRC,
    CheckpointError,
    ConversionConfig,
    SubLN,
    convert,
    install_low_rank,
    load_checkpoint,
    quantizer,
    save_checkpoint,
)
from bitnet_arch.low_rank import corrected_linears

IDS = torch.randint(0, 512, (8, 96), generator=torch.Generator().manual_seed(5))
RANK = 3


def corrected(model: Any, scheme: str) -> Any:
    """Converted, with a correction of random factors."""
    convert(model, ConversionConfig(quantizer(scheme)), IDS)
    install_low_rank(model, RANK)
    generator = torch.Generator().manual_seed(1)
    for _, layer in corrected_linears(model):
        for factor in (layer.lrc_u, layer.lrc_v):
            torch.nn.init.normal_(factor, std=0.1, generator=generator)
    return model


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=IDS[:2, :48]).logits
    return found


@pytest.mark.parametrize("lambda_", [0.0, 0.5, 1.0])
def test_the_correction_is_of_the_input_behind_the_norm_and_before_rounding(lambda_: float) -> None:
    generator = torch.Generator().manual_seed(3)
    base = BitLinear(64, 48, bias=True, quantizer=quantizer("group64"), sub_norm=SubLN(64, 1e-5))
    torch.nn.init.normal_(base.sub_norm.weight, 1, 0.3, generator=generator)
    layer = BitLinearLRC.around(base, 5)
    x = torch.randn(2, 7, 64, generator=generator)
    for each in (base, layer):
        each.lambda_ = lambda_
    assert torch.equal(layer(x), base(x))  # zeros add nothing
    for factor in (layer.lrc_u, layer.lrc_v):
        torch.nn.init.normal_(factor, generator=generator)
    x64 = x.double()
    normed = x64 / (x64.square().mean(-1, keepdim=True) + 1e-5).sqrt() * base.sub_norm.weight.double()
    expected = base(x).double() + lambda_ * normed @ layer.lrc_v.double() @ layer.lrc_u.double().t()
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "scheme"),
    [("tiny_llama", "tensor"), ("tiny_llama", "group64"), ("tiny_qwen2", "group64")],
)
def test_round_trip_is_exact(family: str, scheme: str, request: Any, tmp_path: Any) -> None:
    model = corrected(request.getfixturevalue(family)(), scheme)
    folder = tmp_path / "checkpoint"
    save_checkpoint(model, None, folder, {})
    loaded = load_checkpoint(folder)
    assert loaded.meta["conversion"]["low_rank"] == RANK
    assert len(list(corrected_linears(loaded.model))) == 14
    assert torch.equal(logits(loaded.model), logits(model))
    stock = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert torch.equal(logits(stock), logits(model))
    for _, layer in corrected_linears(model):
        layer.lrc_u.data.zero_()
    assert not torch.equal(logits(loaded.model), logits(model))


def test_models_without_one_are_stored_as_before(tiny_llama: Any, tmp_path: Any) -> None:
    model = convert(tiny_llama(), ConversionConfig(quantizer("tensor")), IDS)
    save_checkpoint(model, None, tmp_path / "checkpoint", {})
    config = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    assert config["architectures"] == ["BitNetForCausalLM"]
    assert "low_rank" not in bitnet_arch.read_meta(tmp_path / "checkpoint")["conversion"]


@pytest.mark.parametrize(("rank", "most"), [(0, 256), (-1, 256), (129, 128)])
def test_ranks_that_no_matrix_has(tiny_llama: Any, rank: int, most: int) -> None:
    model = convert(tiny_llama(), ConversionConfig(quantizer("group64")))
    with pytest.raises(
        ValueError, match=rf"model\.layers\.0\.self_attn\.\w_proj: rank {rank} .* 1 to {most}"
    ):
        install_low_rank(model, rank)
    assert not list(corrected_linears(model))


def test_a_second_correction(tiny_llama: Any) -> None:
    with pytest.raises(ValueError, match=r"q_proj has a low-rank correction already, of rank 3"):
        install_low_rank(corrected(tiny_llama(), "group64"), 4)


@pytest.mark.parametrize("value", ["8", -1, 1000])
def test_a_folder_with_a_wrong_rank(tiny_llama: Any, tmp_path: Any, value: Any) -> None:
    folder = tmp_path / "checkpoint"
    save_checkpoint(corrected(tiny_llama(), "group64"), None, folder, {})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["low_rank"] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="low_rank"):
        load_checkpoint(folder)


def test_a_folder_without_its_factors(tiny_llama: Any, tmp_path: Any) -> None:
    folder = tmp_path / "checkpoint"
    save_checkpoint(corrected(tiny_llama(), "group64"), None, folder, {})
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]["low_rank"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="lrc_u"):
        load_checkpoint(folder)


def test_training_the_corrections_alone(tiny_llama: Any) -> None:
    model = corrected(tiny_llama(), "group64")
    bitnet_arch.train_corrections_alone(model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trained) == 28
    assert all(name.endswith(("lrc_u", "lrc_v")) for name in trained)
    with pytest.raises(ValueError, match="no low-rank correction"):
        bitnet_arch.train_corrections_alone(tiny_llama())


def test_bits_per_weight(tiny_llama: Any) -> None:
    model = corrected(tiny_llama(), "group64")
    # A block: q, o 256 x 256, k, v 128 x 256, gate, up 512 x 256, down 256 x 512.
    numbers = 2 * (256 + 256) + 2 * (128 + 256) + 3 * (512 + 256)
    weights = 2 * 256 * 256 + 2 * 128 * 256 + 3 * 512 * 256
    assert bitnet_arch.correction_bits_per_weight(model) == pytest.approx(16 * RANK * numbers / weights)
    assert bitnet_arch.correction_bits_per_weight(tiny_llama()) == 0
