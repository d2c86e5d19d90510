"""What `generate` needs to be told where several prompts go on together, and what it gives back."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor


def left_padded(prompts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Tokens and attention mask, int64 [prompts, longest]: filled on the left, so all go on at one place."""
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids, mask


def end_ids(model: Any) -> set[int]:
    """Tokens that end a text."""
    stated = [getattr(config, "eos_token_id", None) for config in (model.config, model.generation_config)]
    lists = [ids if isinstance(ids, list) else [ids] for ids in stated]
    return {number for ids in lists for number in ids if number is not None}


def place_of_end(ids: Sequence[int], ends: Collection[int]) -> int | None:
    """Where the first end stands; what comes after it is filling."""
    return next((place for place, token in enumerate(ids) if token in ends), None)


def exceeded_context(model: Any, num_tokens: int) -> int | None:
    """The model's context where so many tokens are beyond it."""
    context: int | None = getattr(model.config, "max_position_embeddings", None)
    return context if context is not None and num_tokens > context else None
