from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from data_handler import DataError, SourceConfig, token_block


def test_token_block_is_the_same_again(two_sources: list[SourceConfig], tokenizer: Any) -> None:
    block = token_block(two_sources, tokenizer, 1000, 64)
    assert block.shape == (16, 64)
    assert block.dtype == torch.int64
    assert torch.equal(block, token_block(two_sources, tokenizer, 1000, 64))
    assert not torch.equal(block, token_block(two_sources, tokenizer, 1000, 64, seed=1))
    assert "left-" in tokenizer.decode(block.flatten())


def test_too_few_tokens_are_an_error(numbered: Callable[..., SourceConfig], tokenizer: Any) -> None:
    source = numbered("small", 4, repeat=False)
    with pytest.raises(DataError, match=r"hold \d+ sequences of 64 tokens, 16 are wanted"):
        token_block([source], tokenizer, 1000, 64)


def test_fewer_tokens_where_they_are_enough(numbered: Callable[..., SourceConfig], tokenizer: Any) -> None:
    source = numbered("small", 40, repeat=False)
    few = token_block([source], tokenizer, 100_000, 8, least_tokens=16)
    assert 2 <= len(few) < 100_000 // 8
    assert torch.equal(few, token_block([source], tokenizer, few.numel(), 8))
    with pytest.raises(DataError, match=rf"hold {len(few)} sequences of 8 tokens, {len(few) + 1} are wanted"):
        token_block([source], tokenizer, 100_000, 8, least_tokens=few.numel() + 1)
