"""Draws from a teacher's distribution that stand for it without bias.

`num_draws` ids of each token at even distances of the cumulative distribution, from one uniform number
(systematic sampling): an id of probability p is drawn num_draws x p times on average, so weights of
1 / num_draws have p as their mean, with less variance than independent draws. Keeping the top k instead is
biased (arXiv 2503.16870).
"""

from __future__ import annotations

import torch
from torch import Tensor


def systematic_draws(logits: Tensor, num_draws: int, generator: torch.Generator) -> Tensor:
    """Ids [tokens, num_draws] of softmax(logits); logits [tokens, vocabulary]."""
    cumulative = logits.double().softmax(-1).cumsum(-1)
    first = torch.rand(len(logits), 1, generator=generator, dtype=torch.float64)
    places = (first + torch.arange(num_draws)) / num_draws * cumulative[:, -1:]
    return torch.searchsorted(cumulative, places, right=True).clamp_max(logits.shape[-1] - 1)
