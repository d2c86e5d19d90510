"""The largest logits, chunk by chunk, beside those of all pairs at once."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bitnet_arch.attention_logits import largest_logits


def all_logits(query: Tensor, key: Tensor, visible: Tensor, scale: float) -> Tensor:
    """[heads]: the plain way, with keys repeated and a table of who sees whom."""
    keys = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    scores = torch.einsum("bhqd,bhkd->bhqk", query.double(), keys.double()) * scale
    return scores.masked_fill(~visible, -math.inf).amax((0, 2, 3)).float()


@pytest.mark.parametrize("kind", ["causal", "bool", "added"])
def test_largest_logits_are_those_of_the_keys_that_are_seen(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 6, 300, 8, generator=generator)
    key = torch.randn(2, 2, 300, 8, generator=generator)
    key[:, :, 280] *= 50  # the largest logits are with keys that most queries do not see
    visible = torch.ones(300, 300, dtype=torch.bool).tril().expand(2, 1, -1, -1).clone()
    if kind != "causal":
        visible[0, 0, 150:, :150] = False  # a second document
    mask = {
        "causal": None,
        "bool": visible,
        "added": torch.zeros(2, 1, 300, 300).masked_fill(~visible, -1e30),
    }
    found = largest_logits(query, key, mask[kind], 0.3)
    torch.testing.assert_close(found, all_logits(query, key, visible, 0.3), rtol=1e-5, atol=1e-5)
