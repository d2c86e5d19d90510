"""Who sees whom in block diffusion (docs/diffusion.md), as boolean masks: True where a query sees a key."""

from __future__ import annotations

import torch
from torch import Tensor


def block_causal_mask(num_tokens: int, block_size: int, device: torch.device | None = None) -> Tensor:
    """Of one document: bool [num_tokens, num_tokens], a token sees all of its block and of earlier ones."""
    blocks = torch.arange(num_tokens, device=device) // block_size
    return blocks[:, None] >= blocks
