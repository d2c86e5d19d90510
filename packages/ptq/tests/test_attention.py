"""Chunked causal attention against torch's, values and gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import wf_ptq
from bitnet_arch.families import blocks
from wf_ptq.attention import CausalAttention


def _inputs(num_tokens: int, heads: int, key_heads: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(num_tokens)
    return [
        torch.randn(2, num_tokens, count, 16, generator=generator, dtype=torch.float64)
        .to(dtype)
        .transpose(1, 2)  # as transformers hands them over: not contiguous
        .requires_grad_(True)
        for count in (heads, key_heads, key_heads)
    ]


@pytest.mark.parametrize("num_tokens", [1, 31, 32, 33, 100])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (6, 2), (4, 1)])
def test_values_and_gradients_are_those_of_masked_attention(
    num_tokens: int, heads: int, key_heads: int
) -> None:
    inputs = _inputs(num_tokens, heads, key_heads, torch.float32)
    reference = [x.detach().double().requires_grad_(True) for x in inputs]
    found = CausalAttention.apply(*inputs, 0.3)
    expected = F.scaled_dot_product_attention(*reference, is_causal=True, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    direction = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    found.backward(direction)
    expected.backward(direction.double())
    for x, y in zip(inputs, reference, strict=True):
        torch.testing.assert_close(x.grad.double(), y.grad, rtol=1e-4, atol=1e-5)


def test_bfloat16_keeps_large_scores_apart() -> None:
    """Scores near 200 that differ by 0.5, which bfloat16 would round to the same number."""
    q = torch.full((1, 1, 2, 4), 10.0, dtype=torch.bfloat16)
    k = torch.tensor([[5.0, 5.0, 5.0, 5.0], [5.0, 5.0, 5.0, 5.0625]], dtype=torch.bfloat16).view(1, 1, 2, 4)
    v = torch.tensor([0.0, 1.0], dtype=torch.bfloat16).view(1, 1, 2, 1).expand(1, 1, 2, 4)
    share = CausalAttention.apply(q, k, v, 1.0)[0, 0, 1, 0].item()
    assert share == pytest.approx(torch.tensor(0.625).sigmoid().item(), abs=0.005)


def test_a_block_answers_as_with_sdpa_and_the_setting_is_given_back() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=32, attn_implementation="sdpa",
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).requires_grad_(False)
    ids = torch.randint(32, (2, 70))
    expected = model.model(ids).last_hidden_state
    (_, block), *_ = blocks(model)
    hidden = wf_ptq.BlockRunner(model)(block, model.model.embed_tokens(ids))
    torch.testing.assert_close(model.model.norm(hidden), expected, rtol=1e-4, atol=1e-5)
    assert model.config._attn_implementation == "sdpa"
