"""Decoding of block diffusion in PyTorch: against what the page says of it, and against generation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from bitnet_arch.block_decoding import decode_blocks, drawn_with
from wf_formats.block_decoding import BlockDecoding
from wf_formats.diffusion import BlockDiffusion
from wf_formats.errors import RequestError

MASK = 63


@pytest.fixture(scope="module")
def model(tiny_llama: Callable[..., Any]) -> Any:
    """Random, with logits far from uniform: confidences from 0.1 to 1."""
    made = tiny_llama(
        vocab_size=64, hidden_size=48, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2
    ).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "norm" not in name:
                parameter.copy_(0.25 * torch.randn(parameter.shape, generator=generator))
    return made


def of_blocks(model: Any, size: int, token_shift: bool = True) -> Any:
    model.config.block_diffusion = BlockDiffusion(size, MASK, token_shift).to_settings()
    return model


@pytest.mark.parametrize("num_prompt", [1, 5, 8])
def test_blocks_of_one_token_are_autoregressive_generation(model, num_prompt) -> None:
    prompt = list(range(2, 2 + num_prompt))
    found = decode_blocks(of_blocks(model, 1), prompt, 12)
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(12):
            logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
            logits[MASK] = -torch.inf
            ids.append(int(logits.argmax()))
    assert (found.token_ids, found.num_passes) == (ids[num_prompt:], 12)


@pytest.mark.parametrize("token_shift", [True, False])
@pytest.mark.parametrize("num_prompt", [1, 4, 7])
def test_a_threshold_of_one_draws_one_token_a_pass(model, token_shift, num_prompt) -> None:
    """Of whole blocks; finished ones are computed once more, and give a token with the shift."""
    max_tokens = 16 - num_prompt
    found = decode_blocks(of_blocks(model, 4, token_shift), [5] * num_prompt, max_tokens, BlockDecoding(1.0))
    finished = (16 - num_prompt - 1) // 4
    assert len(found.token_ids) == max_tokens
    assert found.num_passes == max_tokens + (0 if token_shift else finished)


def test_a_low_threshold_draws_sub_blocks(model) -> None:
    """The first token with the finished block before it, then 3 and 4 tokens of each block of 8."""
    found = decode_blocks(of_blocks(model, 8), [5] * 8, 16, BlockDecoding(0.0, sub_block=4))
    assert (len(found.token_ids), found.num_passes) == (16, 6)


def test_between_them_the_threshold_decides(model) -> None:
    passes = [
        decode_blocks(of_blocks(model, 8), [5, 6], 30, BlockDecoding(threshold)).num_passes
        for threshold in (0.0, 0.3, 0.6, 1.0)
    ]
    assert passes == sorted(passes)
    assert passes[0] < passes[1] < passes[3]


def test_a_shorter_answer_is_the_beginning_of_a_longer_one(model) -> None:
    whole = decode_blocks(of_blocks(model, 8), [5, 6, 7], 30, BlockDecoding(0.4)).token_ids
    for length in (1, 4, 5, 6, 13, 21):
        assert decode_blocks(model, [5, 6, 7], length, BlockDecoding(0.4)).token_ids == whole[:length]


def test_an_answer_ends_before_its_end_token(model) -> None:
    whole = decode_blocks(of_blocks(model, 8), [5, 6, 7], 30, BlockDecoding(0.4)).token_ids
    end = whole[11]
    found = decode_blocks(model, [5, 6, 7], 30, BlockDecoding(0.4), end_ids={end}).token_ids
    assert found == whole[: whole.index(end)]


def test_no_mask_token_is_drawn(model) -> None:
    with torch.no_grad():
        kept = model.lm_head.weight[MASK].clone()
        model.lm_head.weight[MASK] *= 40
    found = decode_blocks(of_blocks(model, 8), [5, 6, 7], 30, BlockDecoding(0.4))
    with torch.no_grad():
        model.lm_head.weight[MASK] = kept
    assert MASK not in found.token_ids


def test_draws_follow_the_numbers_given(model) -> None:
    """0 draws the first token that has any mass, numbers near 1 the last; a low temperature the likeliest."""
    of_blocks(model, 4)
    lowest = decode_blocks(model, [5], 6, draw=drawn_with(lambda index: 0.0, 1.0)).token_ids
    assert set(lowest) == {0}
    cold = drawn_with(lambda index: 0.5, 1e-4)
    assert decode_blocks(model, [5], 12, draw=cold) == decode_blocks(model, [5], 12)


def test_what_cannot_be_decoded_is_refused(model, tiny_llama) -> None:
    of_blocks(model, 4)
    for prompt in ([], [5, MASK]):
        with pytest.raises(ValueError, match=r"the prompt is \["):
            decode_blocks(model, prompt, 4)
    with pytest.raises(ValueError, match=r"config\.block_diffusion is missing: the model is autoregressive"):
        decode_blocks(tiny_llama(), [5], 4)
    with pytest.raises(RequestError, match=r"the threshold is 1\.5: it is a probability"):
        BlockDecoding(1.5)
    with pytest.raises(RequestError, match="a sub-block has 0 tokens"):
        BlockDecoding(sub_block=0)
