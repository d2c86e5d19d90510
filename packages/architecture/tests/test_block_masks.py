"""Masks of block diffusion."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_mask

from bitnet_arch.attention import WATCH, attention_forward
from bitnet_arch.block_masks import (
    block_causal_mask,
    noisy_clean_block_mask,
    noisy_clean_mask,
    noisy_clean_mod,
)


def test_tokens_see_their_own_and_earlier_blocks() -> None:
    seen = block_causal_mask(5, 2).int().tolist()
    assert seen == [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]


def test_blocks_of_one_token_are_causal() -> None:
    assert torch.equal(block_causal_mask(7, 1), torch.ones(7, 7, dtype=torch.bool).tril())


def _pairs(documents: list[int], block_size: int, num_noisy: int) -> list[list[bool]]:
    """Who sees whom, pair by pair, as docs/diffusion.md says it."""
    length = len(documents)

    def sees(query: int, key: int) -> bool:
        half, other_half = query // length, key // length
        own, other = query % length // block_size, key % length // block_size
        if documents[query % length] != documents[key % length]:
            return False
        if other_half < num_noisy:  # a noisy key
            return half == other_half and own == other
        return other < own if half < num_noisy else other <= own

    width = (num_noisy + 1) * length
    return [[sees(query, key) for key in range(width)] for query in range(width)]


@pytest.mark.parametrize(("block_size", "num_noisy"), [(1, 1), (2, 1), (2, 2), (12, 2)])
def test_noisy_tokens_see_their_block_and_clean_ones_before(block_size: int, num_noisy: int) -> None:
    documents = torch.tensor([[0] * 6 + [1] * 2 + [2] * 4, [0] * 12])
    seen = noisy_clean_mask(documents, block_size, num_noisy)
    assert seen[:, 0].tolist() == [_pairs(row, block_size, num_noisy) for row in documents.tolist()]
    places = torch.arange(seen.shape[-1])
    sees = noisy_clean_mod(documents, block_size, num_noisy)
    rows = torch.arange(2)[:, None, None, None]
    found = sees(rows, torch.zeros(1, dtype=torch.long), places[:, None], places)
    assert torch.equal(found, seen)


def test_the_clean_half_is_the_block_causal_mask() -> None:
    seen = noisy_clean_mask(torch.zeros(1, 8, dtype=torch.long), 4)
    assert torch.equal(seen[0, 0, 8:, 8:], block_causal_mask(8, 4))
    assert not seen[0, 0, 8:, :8].any()


def test_flex_attention_gets_the_same_mask() -> None:
    documents = torch.tensor([[0] * 100 + [1] * 60])
    sparse = noisy_clean_block_mask(documents, 20, 2)
    assert sparse.shape == (1, 1, 480, 480)
    full = create_mask(sparse.mask_mod, 1, 1, 480, 480, device="cpu")
    seen = noisy_clean_mask(documents, 20, 2)
    assert torch.equal(full, seen)
    kept = sparse.to_dense()[0, 0].bool().repeat_interleave(128, 0).repeat_interleave(128, 1)[:480, :480]
    assert not (seen[0, 0] & ~kept).any()
    assert not kept.all()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("autocast", [False, True])
def test_attention_takes_the_mask_in_both_forms(autocast: bool) -> None:
    """Forward: on CPUs flex_attention has no backward pass. Autocast leaves queries and keys in float32, as
    rotary positions do."""
    documents = torch.tensor([[0] * 12 + [1] * 4, [0] * 16])
    query, key, value = (torch.randn(2, heads, 48, 8) for heads in (4, 2, 2))
    module = torch.nn.Module().eval()
    module.num_key_value_groups = 2
    seen: list[Tensor] = []
    setattr(module, WATCH, lambda query, key, mask, scale: seen.append(mask))
    masks = (noisy_clean_mask(documents, 4, 2), noisy_clean_block_mask(documents, 4, 2))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        dense, flexible = (
            attention_forward(module, query, key, value.bfloat16() if autocast else value, m)[0]
            for m in masks
        )
    tolerance = 2e-2 if autocast else 1e-5
    torch.testing.assert_close(flexible, dense, rtol=tolerance, atol=tolerance)
    assert torch.equal(*seen)
