"""Masks of block diffusion."""

from __future__ import annotations

import torch

from bitnet_arch.block_masks import block_causal_mask


def test_tokens_see_their_own_and_earlier_blocks() -> None:
    seen = block_causal_mask(5, 2).int().tolist()
    assert seen == [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]


def test_blocks_of_one_token_are_causal() -> None:
    assert torch.equal(block_causal_mask(7, 1), torch.ones(7, 7, dtype=torch.bool).tril())
