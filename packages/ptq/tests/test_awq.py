"""AWQ: folding leaves the function as it is, and the search finds what float64 finds by brute force."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch

from bitnet_arch import ConversionConfig, convert, quantizer, set_lambda
from wf_ptq import AwqMethod, AwqOptions, BlockError, BlockRunner, TernaryMethod, walk_blocks
from wf_ptq.awq.search import candidates, clip
from wf_ptq.awq.sites import Norm, fold, sites_of

pytestmark = pytest.mark.usefixtures("one_thread")
IDS = torch.randint(0, 512, (12, 48), generator=torch.Generator().manual_seed(5))
FAMILIES = {
    "LlamaConfig": {"num_key_value_heads": 2, "mlp_bias": True, "attention_bias": True},
    "Qwen2Config": {"num_key_value_heads": 1},
    "Qwen3Config": {"head_dim": 128, "num_key_value_heads": 1},
    "Gemma3TextConfig": {"head_dim": 32, "num_key_value_heads": 1},
    "Phi3Config": {},
}
"""With biases everywhere, of q, k, v, norms of queries and keys, gains less 1, fused linears."""
WITHOUT_GROUPED_QUERIES = {"LlamaConfig", "Phi3Config"}


class Memory(dict):
    def save(self, name, tensors, report):
        self[name] = {key: tensor.clone() for key, tensor in tensors.items()}, dict(report)

    def load(self, name):
        return self[name]


def _varied(model: Any) -> Any:
    generator = torch.Generator().manual_seed(3)
    for parameter in model.requires_grad_(False).parameters():
        if parameter.dim() == 1:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_folding_leaves_the_function_as_it_is(family: str) -> None:
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 2}
    model = _varied(tiny_models.tiny_model(family, **(sizes | FAMILIES[family])))
    convert(model, ConversionConfig(quantizer("int4-group32")))
    set_lambda(model, 0.0)
    model.double()
    expected = model(IDS[:2]).logits
    sites = sites_of(model)
    assert ("o" in [site.name for site in sites]) == (family in WITHOUT_GROUPED_QUERIES)
    generator = torch.Generator().manual_seed(4)
    before = copy.deepcopy(model.state_dict())
    for block in model.model.layers:
        for site in sites:
            size = block.get_submodule(site.consumers[0]).in_features
            fold(block, site, torch.rand(size, generator=generator, dtype=torch.float64) + 0.5)
    rounding = 1e-6 if family == "Gemma3TextConfig" else 1e-11  # whose norms round their gains to float32
    torch.testing.assert_close(model(IDS[:2]).logits, expected, rtol=0, atol=rounding)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    scaled = {name for site in sites for name in site.consumers}
    assert all(f"model.layers.1.{name}.weight" in changed for name in scaled)
    norms = {site.producer.name for site in sites if isinstance(site.producer, Norm)}
    assert all(f"model.layers.1.{norm}.weight" in changed for norm in norms)


def test_candidates_are_those_of_the_paper() -> None:
    magnitude = np.array([0.1, 2.0, 0.0, 30.0])
    found = list(candidates(torch.tensor(magnitude, dtype=torch.float32), 20))
    assert [exponent for exponent, _ in found] == pytest.approx(np.arange(20) / 20)
    assert found[0][1].tolist() == [1, 1, 1, 1]
    for exponent, scales in found[1:]:
        expected = np.maximum(magnitude**exponent, 1e-4)
        expected /= np.sqrt(expected.max() * expected.min())
        np.testing.assert_allclose(scales.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("scheme", ["int4-group32", "int4-group32-zero"])
def test_ranges_are_those_of_brute_force(scheme: str) -> None:
    generator = torch.Generator().manual_seed(6)
    weight = torch.randn(6, 64, generator=generator) ** 3
    x = (torch.randn(200, 64, generator=generator) * torch.rand(64, generator=generator)).double()
    found = clip(weight, (x.t() @ x / 200).float(), quantizer(scheme), 32, 10)
    least, best = np.full((6, 2), np.inf), np.zeros((6, 2, 32))
    for index in range(10):
        grouped = weight.view(6, 2, 32)
        limit = grouped.abs().amax(-1, keepdim=True) * (1 - index / 20)
        cut = grouped.clamp(-limit, limit)
        values = quantizer(scheme).quantize(cut.view(6, 64)).values().view(6, 2, 32)
        lost = (values - grouped).double()
        error = torch.einsum("tgk,rgk->trg", x.view(200, 2, 32), lost).square().mean(0).numpy()
        better = error < least * (1 - 1e-4)
        best[better], least = cut.numpy()[better], np.minimum(error, least)
    np.testing.assert_allclose(found.numpy().reshape(best.shape), best, rtol=1e-6)
    assert (found != weight).any()


@pytest.fixture(scope="module")
def spiky() -> Any:
    """A model whose normed inputs have few large channels, as those of trained models."""
    sizes = {"hidden_size": 128, "intermediate_size": 256, "initializer_range": 0.1}
    model = _varied(tiny_models.tiny_model("LlamaConfig", **sizes))
    for block in model.model.layers:
        for norm in (block.input_layernorm, block.post_attention_layernorm):
            norm.weight[::31] *= 20
    return model


@pytest.mark.parametrize("scheme", ["int4-group64", "int4-group64-zero"])
def test_blocks_lose_less_than_by_rounding(spiky: Any, scheme: str) -> None:
    student = convert(copy.deepcopy(spiky), ConversionConfig(quantizer(scheme)))
    rounded = copy.deepcopy(student)
    reports = dict(walk_blocks(student, spiky, IDS, AwqMethod.of(student), Memory(), seed=0))
    for report in reports.values():
        assert set(report["exponents"]) == {"qkv", "gate_up", "down"}
        assert all(report["scaled"][site] <= error for site, error in report["rounded"].items())
        assert report["scaled"]["qkv"] < 0.7 * report["rounded"]["qkv"]
        assert report["stream"] < report["stream_rounded"]
        assert all(0 <= share < 0.5 for share in report["cut_off"].values())
        assert set(report["cut_off"]) == {f"self_attn.{part}_proj" for part in "vo"} | {
            f"mlp.{part}_proj" for part in ("gate", "up", "down")
        }
    expected = spiky(IDS).logits
    lost = [(model(IDS).logits - expected).square().mean() for model in (rounded, student)]
    assert lost[1] < 0.8 * lost[0]


def test_a_stopped_walk_goes_on_to_the_bit(spiky: Any) -> None:
    def converted() -> Any:
        return convert(copy.deepcopy(spiky), ConversionConfig(quantizer("int4-group32")))

    whole, resumed, store = converted(), converted(), Memory()
    options = AwqOptions(num_exponents=4, num_clips=3)
    list(walk_blocks(whole, spiky, IDS, AwqMethod.of(whole, options), store, seed=0))
    first = Memory({"model.layers.0": store["model.layers.0"]})
    list(walk_blocks(resumed, spiky, IDS, AwqMethod.of(resumed, options), first, seed=0))
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_what_it_cannot_do_is_refused(make_pair: Any) -> None:
    student, teacher = make_pair("tiny_llama", "tensor")
    with pytest.raises(ValueError, match="the model has SubLN"):
        AwqMethod.of(student)
    student, teacher = make_pair("tiny_llama", "group64")
    with pytest.raises(BlockError, match=r"model\.layers\.0: weights of scheme group64 are not of 4 bits"):
        next(walk_blocks(student, teacher, IDS, AwqMethod.of(student), Memory(), seed=0))
    student, teacher = make_pair("tiny_llama", "int4-group64")
    with pytest.raises(BlockError, match="codes of scheme int4-group64 are not chosen on text"):
        next(walk_blocks(student, teacher, IDS, TernaryMethod(), Memory(), seed=0))
    with pytest.raises(ValueError, match="shapes"):
        AwqMethod.of(student).quantize_block(BlockRunner(student), None, IDS, IDS[:1], 0)
