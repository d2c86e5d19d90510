"""Who sees whom in block diffusion (docs/diffusion.md), as boolean masks: True where a query sees a key.

`[noisy | clean]` is what training shows: a text with mask tokens and the text itself, one behind the other;
`[noisy | noisy | clean]` shows two choices of masks beside one clean text, whose tokens see no noise. Of a
query and a key of the same document

    noisy sees noisy    in the same block of the same half
    noisy sees clean    in earlier blocks
    clean sees clean    in the same block and earlier ones

A dense mask works everywhere. On GPUs PyTorch's `flex_attention` skips what nobody sees, and keeps no mask of
queries x keys; it has no backward pass on CPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Of the numbers of row, head, query and key: bool, whether the query sees the key."""


def block_causal_mask(num_tokens: int, block_size: int, device: torch.device | None = None) -> Tensor:
    """Of one document: bool [num_tokens, num_tokens], a token sees all of its block and of earlier ones."""
    blocks = torch.arange(num_tokens, device=device) // block_size
    return blocks[:, None] >= blocks


def noisy_clean_mask(documents: Tensor, block_size: int, num_noisy: int = 1) -> Tensor:
    """Of rows `[noisy | clean]`, with `num_noisy` noisy ones of each.

    Args: documents [batch, tokens], the number of each token's document in its row. Each begins at a multiple
        of block_size.
    Returns: bool [batch, 1, queries, keys], both (num_noisy + 1) * tokens.
    """
    shown = documents.repeat(1, num_noisy + 1)
    blocks = _blocks_that_see(documents.shape[1], block_size, num_noisy, documents.device)
    return (blocks & (shown[:, :, None] == shown[:, None, :])).unsqueeze(1)


@lru_cache(maxsize=4)
def _blocks_that_see(num_tokens: int, block_size: int, num_noisy: int, device: torch.device) -> Tensor:
    """What does not depend on the documents: bool [queries, keys]."""
    places = torch.arange((num_noisy + 1) * num_tokens, device=device)
    return _sees(places[:, None], places, num_tokens, block_size, num_noisy)


def _sees(query: Tensor, key: Tensor, num_tokens: int, block_size: int, num_noisy: int) -> Tensor:
    """Of places in a row, whatever their documents are."""
    own, other = query % num_tokens // block_size, key % num_tokens // block_size
    half, other_half = query // num_tokens, key // num_tokens
    return ((half == other_half) & (own == other)) | ((other_half == num_noisy) & (other < own))


def noisy_clean_mod(documents: Tensor, block_size: int, num_noisy: int = 1) -> MaskMod:
    """`noisy_clean_mask` as `flex_attention` asks for it."""
    num_tokens = documents.shape[1]

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        is_same = documents[row, query % num_tokens] == documents[row, key % num_tokens]
        return is_same & _sees(query, key, num_tokens, block_size, num_noisy)

    return sees


def noisy_clean_block_mask(documents: Tensor, block_size: int, num_noisy: int = 1) -> BlockMask:
    """`noisy_clean_mask` for `flex_attention`: it says which 128 x 128 pieces hold anything."""
    from torch.nn.attention.flex_attention import create_block_mask

    batch, num_tokens = documents.shape
    width = (num_noisy + 1) * num_tokens
    mod = noisy_clean_mod(documents, block_size, num_noisy)
    return create_block_mask(mod, batch, None, width, width, device=str(documents.device))
