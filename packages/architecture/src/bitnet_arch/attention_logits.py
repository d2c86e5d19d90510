"""The largest attention logit of each head, watched during training's own forward passes.

A logit is what softmax is taken of: scale q . k, with both as attention gets them (normed, turned, in its
dtype), for keys that the query sees. Attention does not keep its scores, so they are computed once more, a
chunk of queries at a time, in float32 and without gradient: half of attention's forward products again, and
chunk x tokens floats a head and sequence.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bitnet_arch.attention import NAME, WATCH
from bitnet_arch.families import blocks

_QUERIES = 128
"""Of one chunk."""


@torch.no_grad()
def largest_logits(query: Tensor, key: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """float32 [heads], over all sequences and positions.

    Args:
        query: [batches, heads, tokens, size]; key: the same with the key heads, each shared by neighbours.
        mask: [batches or 1, 1, tokens, keys], bool (true where a query sees a key) or added to the logits;
            None: a query sees itself and what is before it.
    """
    (batches, heads, tokens, size), shared = query.shape, key.shape[1]
    found = query.new_full((heads,), -torch.inf, dtype=torch.float32)
    with torch.autocast(query.device.type, enabled=False):
        keys = key.float().transpose(2, 3)
        for start in range(0, tokens, _QUERIES):
            rows = query[:, :, start : start + _QUERIES].float().mul(scale)
            num_rows = rows.shape[2]
            seen = key.shape[2] - tokens + start + num_rows if mask is None else key.shape[2]
            grouped = rows.reshape(batches, shared, -1, size)  # heads of a key head are neighbours
            scores = (grouped @ keys[..., :seen]).view(batches, heads, num_rows, seen)
            if mask is None:
                later = scores.new_ones((num_rows, seen), dtype=torch.bool).triu(seen - num_rows + 1)
                scores.masked_fill_(later, -torch.inf)
            else:
                _apply(scores, mask[:, :, start : start + _QUERIES])
            torch.maximum(found, scores.amax((0, 2, 3)), out=found)
    return found


def _apply(scores: Tensor, mask: Tensor) -> None:
    if mask.dtype is torch.bool:
        scores.masked_fill_(~mask, -torch.inf)
    else:
        scores.add_(mask)


class LogitWatch:
    """What the attention of all layers shows between `begin` and `end`, while `is_on`; passes without
    gradient (generation) do not count.
    """

    def __init__(self, model: Any) -> None:
        """Raises: ValueError for a model whose attention is computed by something else than this package."""
        self.is_on = False
        self.attentions: list[Any] = [block.self_attn for _, block in blocks(model)]
        self._largest: dict[int, Tensor] = {}
        if (used := model.config._attn_implementation) != NAME:
            raise ValueError(f"attention is computed by {used!r}, which cannot be watched; 'sdpa' can")

    def begin(self) -> None:
        for number, attention in enumerate(self.attentions):
            setattr(attention, WATCH, self._noting(number))

    def end(self) -> None:
        for attention in self.attentions:
            delattr(attention, WATCH)

    def take(self) -> Tensor:
        """[layers, heads] since the last time. Every layer has been seen."""
        seen, self._largest = self._largest, {}
        return torch.stack([seen[number] for number in range(len(self.attentions))])

    def _noting(self, number: int) -> Any:
        def note(query: Tensor, key: Tensor, mask: Tensor | None, scale: float) -> None:
            if self.is_on and torch.is_grad_enabled():
                found, before = largest_logits(query, key, mask, scale), self._largest.get(number)
                self._largest[number] = found if before is None else torch.maximum(before, found)

        return note
