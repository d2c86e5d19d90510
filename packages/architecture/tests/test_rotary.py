"""Rotary positions by kernels beside transformers' own, in whole models."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.cohere.modeling_cohere import CohereAttention
from transformers.models.llama.modeling_llama import LlamaAttention

from bitnet_arch import rotary, use_kernels
from bitnet_arch.kernels import kernel_for

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "eos_token_id": 1,
}


def model_of(family: str) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES))
    use_kernels(model)
    return model


def answers(model: Any, autocast: bool) -> list[Tensor]:
    """Logits, and the gradients of all parameters."""
    ids = torch.arange(44).view(2, 22)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = model(input_ids=ids).logits.float()
    logits.square().mean().backward()
    return [logits.detach(), *(p.grad for p in model.parameters())]


@pytest.fixture
def turned(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each layer that was computed, whether a kernel turned its queries and keys."""
    by_kernel: list[bool] = []

    def counting(*arguments: Any) -> Callable[..., Any] | None:
        kernel = kernel_for(*arguments)
        by_kernel.append(kernel is not None)
        return kernel

    monkeypatch.setattr(rotary, "kernel_for", counting)
    return by_kernel


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(
    ("family", "by_kernel"), [("llama", True), ("qwen3", True), ("smollm3", True), ("phi3", False)]
)
def test_a_model_answers_as_before_to_the_bit(
    family: str, by_kernel: bool, autocast: bool, turned: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Phi-3's queries and keys are parts of one tensor, with gaps."""
    model = model_of(family)
    plain = copy.deepcopy(model)
    found = answers(model, autocast)
    assert turned == [by_kernel] * 2
    monkeypatch.setattr(rotary, "kernel_for", lambda *_: None)
    for mine, reference in zip(found, answers(plain, autocast), strict=True):
        assert torch.equal(mine, reference)


def test_layers_that_turn_otherwise_keep_their_class() -> None:
    """Cohere's neighbours turn together."""
    assert rotary.turning(CohereAttention) is None
    assert rotary.turning(torch.nn.MultiheadAttention) is None
    assert LlamaAttention.forward is not rotary.turning(LlamaAttention).forward


def test_what_the_kernel_does_not_take_is_turned_as_before() -> None:
    q = torch.randn(1, 2, 3, 8)
    cosine, sine = torch.randn(2, 1, 3, 8)
    stock = rotary.apply_rotary_pos_emb
    for x, angles in ((q.double(), (cosine, sine)), (q.bfloat16(), (cosine, sine))):
        for mine, reference in zip(rotary.rotated(stock, x, x, *angles), stock(x, x, *angles), strict=True):
            assert mine.dtype is reference.dtype
            assert torch.equal(mine, reference)
