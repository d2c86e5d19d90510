"""What a block-diffusion model makes of a token sequence: a bound of its -log p (docs/diffusion.md,
"Likelihood").

    -log p(block | earlier blocks) <= E[n / k sum of the cross-entropies of the k masked tokens]

over k uniform in 1..n and the tokens that are masked, n those of the block that are asked for and may be
masked. What stands before them in their block is known, as the end of a prompt is in decoding. Under the
token shift the first token of a block adds its own cross-entropy, exactly.

1. One pass over the finished blocks leaves them in a cache and says the first tokens.
2. Noisy copies of the blocks that are asked for, all blocks of a copy at once, each seeing the finished ones
   before it. A block that has no more choices of masks (2^n - 1) than copies were asked for has them all,
   each with its probability: exact. Others have k spread evenly over 1..n (stratified: unbiased, of less
   variance).

Cost: one pass over the text, and as many over the blocks asked for as there are copies.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitnet_arch.block_decoding import block_logprobs
from bitnet_arch.block_masks import block_causal_mask
from bitnet_arch.diffusion_model import block_diffusion_of
from wf_formats.block_decoding import BlockDecoding
from wf_formats.diffusion import BlockDiffusion, check_diffusion, exclude_token

LOGITS_BYTES = 2**28
"""Of the logits that exist at the same time, in float32; a copy of a long text may need more."""


@dataclass(frozen=True)
class BlockBound:
    """Of the blocks that have tokens asked for, in order.

    nats: float64 [blocks], a bound of -log p of these tokens given all before them.
    variances: float64 [blocks], of nats over draws of masks; 0 where all were taken. Not less than it is,
        since what stratifying gains is not taken off; NaN where one copy was drawn.
    num_tokens: int64 [blocks].
    num_passes: of the model.
    """

    nats: NDArray[np.float64]
    variances: NDArray[np.float64]
    num_tokens: NDArray[np.int64]
    num_passes: int


@dataclass(frozen=True)
class _Masks:
    """Of one block. masked: bool [copies, n]; weights: float64 [copies], of the sums of cross-entropies."""

    masked: Tensor
    weights: Tensor
    is_drawn: bool


def every_mask(num_tokens: int) -> _Masks:
    """All choices of 1 to n of n tokens: k has the probability 1 / n, a choice of k tokens 1 / C(n, k) of
    it."""
    chosen = [c for k in range(1, num_tokens + 1) for c in combinations(range(num_tokens), k)]
    masked = torch.zeros(len(chosen), num_tokens, dtype=torch.bool)
    for row, tokens in zip(masked, chosen, strict=True):
        row[list(tokens)] = True
    weights = [1 / (comb(num_tokens, len(c)) * len(c)) for c in chosen]
    return _Masks(masked, torch.tensor(weights, dtype=torch.float64), is_drawn=False)


def drawn_masks(num_tokens: int, num_samples: int, generator: torch.Generator) -> _Masks:
    """Each copy has its stratum of k."""
    strata = torch.arange(num_samples) + torch.rand(num_samples, generator=generator, dtype=torch.float64)
    counts = (strata * num_tokens / num_samples).long().clamp_max(num_tokens - 1) + 1
    ranks = torch.rand(num_samples, num_tokens, generator=generator).argsort(1).argsort(1)
    weights = num_tokens / (counts.double() * num_samples)
    return _Masks(ranks < counts[:, None], weights, is_drawn=True)


@torch.no_grad()
def bound_tokens(
    model: Any, ids: Sequence[int], start: int, num_samples: int, generator: torch.Generator
) -> BlockBound:
    """A bound of -log p(ids[start:]), given all ids before them.

    Args:
        model: Block-diffusion causal LM in evaluation mode.
        ids: Token ids, at least two; blocks are counted from the first.
        start: First position that is asked for, in [1, len(ids) - 1].
        num_samples: Copies with masks for each block, at most.
        generator: Of the CPU.

    Raises:
        ValueError: `start` is out of range, or there is a mask token among the ids.
        ModelKindError: the model is autoregressive.
    """
    diffusion = check_diffusion(block_diffusion_of(model), "the bound of a likelihood")
    if not 1 <= start < len(ids):
        raise ValueError(f"cannot score {len(ids)} ids from {start} on")
    if diffusion.mask_token_id in ids:
        raise ValueError(f"the text holds the mask token (id {diffusion.mask_token_id})")
    text = torch.tensor(list(ids), device=model.device)
    size = diffusion.block_size
    first_block, num_blocks = start // size, -(-len(ids) // size)
    places = torch.arange(start, len(ids))
    is_first = places % size == 0 if diffusion.token_shift else torch.zeros_like(places, dtype=torch.bool)
    cache, of_firsts = _finished(model, text, (num_blocks - 1) * size, places[is_first], diffusion)
    maskable = places[~is_first]
    block_of = maskable // size - first_block
    masks = []
    for count in torch.bincount(block_of, minlength=num_blocks - first_block).tolist():
        is_small = count < 63 and 2**count - 1 <= num_samples
        masks.append(every_mask(count) if is_small else drawn_masks(count, num_samples, generator))
    found = _Sums(masks, block_of)
    for rows in _in_parts(found.num_copies, len(maskable), model.config.vocab_size):
        noisy = _Noisy(text, first_block * size, num_blocks * size, maskable, diffusion)
        found.add(rows, noisy.losses(model, cache, found.masked[rows]))
    nats, variances = found.totals()
    nats.index_add_(0, places[is_first] // size - first_block, of_firsts)
    counts = torch.bincount(places // size - first_block, minlength=len(masks))
    num_passes = found.num_copies + (cache is not None)
    return BlockBound(nats.numpy(), variances.numpy(), counts.numpy(), num_passes)


def _in_parts(num_copies: int, num_tokens: int, vocab_size: int) -> Sequence[slice]:
    size = max(1, LOGITS_BYTES // max(1, 4 * num_tokens * vocab_size))
    return [slice(begin, begin + size) for begin in range(0, num_copies, size)]


class _Sums:
    """Of the copies of all blocks: a block with fewer has nothing masked in the rest."""

    def __init__(self, masks: Sequence[_Masks], block_of: Tensor) -> None:
        """Args: block_of [tokens], ascending."""
        self.masks, self.block_of = masks, block_of
        self.num_copies = max(len(m.masked) for m in masks)
        self.masked = torch.zeros(self.num_copies, len(block_of), dtype=torch.bool)
        for number, block in enumerate(masks):
            self.masked[: len(block.masked), block_of == number] = block.masked
        self._sums = torch.zeros(self.num_copies, len(masks), dtype=torch.float64)

    def add(self, rows: slice, losses: Tensor) -> None:
        """Args: losses [copies, tokens], 0 where nothing is masked."""
        self._sums[rows] = self._sums[rows].index_add(1, self.block_of, losses)

    def totals(self) -> tuple[Tensor, Tensor]:
        """Estimates and their variances, [blocks]."""
        totals, variances = torch.zeros(2, len(self.masks), dtype=torch.float64)
        for number, block in enumerate(self.masks):
            if not (count := len(block.weights)):
                continue
            parts = self._sums[:count, number] * block.weights
            totals[number] = parts.sum()
            if block.is_drawn:
                variances[number] = count * parts.var(correction=1) if count > 1 else torch.nan
        return totals, variances


def _finished(
    model: Any, text: Tensor, num_tokens: int, firsts: Tensor, diffusion: BlockDiffusion
) -> tuple[Any, Tensor]:
    """The cache of the finished blocks (None: there is none), and -log p of the tokens at `firsts`."""
    if not num_tokens:
        return None, torch.zeros(0, dtype=torch.float64)
    seen = block_causal_mask(num_tokens, diffusion.block_size, text.device)[None, None]
    output = model(
        text[None, :num_tokens],
        attention_mask=seen,
        use_cache=True,
        logits_to_keep=(firsts - 1).to(text.device),
    )
    return output.past_key_values, _crossed(output.logits, text[firsts], diffusion)[0]


@dataclass(frozen=True)
class _Noisy:
    """Blocks of a text with mask tokens. begin, end: of them, in whole blocks; maskable: places of tokens."""

    text: Tensor
    begin: int
    end: int
    maskable: Tensor
    diffusion: BlockDiffusion

    def losses(self, model: Any, cache: Any, masked: Tensor) -> Tensor:
        """-log p of the tokens that are masked [copies, tokens], 0 for the others, float64 on the CPU."""
        device, mask = self.text.device, self.diffusion.mask_token_id
        copies = self.text.new_full((len(masked), self.end - self.begin), mask)
        copies[:, : len(self.text) - self.begin] = self.text[self.begin :]
        index = (self.maskable - self.begin).to(device)
        copies[:, index] = copies[:, index].masked_fill(masked.to(device), mask)
        past = None
        if cache is not None:
            past = copy.deepcopy(cache)
            past.batch_repeat_interleave(len(masked))
        output = model(
            copies,
            attention_mask=self._visible(0 if cache is None else cache.get_seq_length()),
            position_ids=torch.arange(self.begin, self.end, device=device)[None],
            past_key_values=past,
            use_cache=past is not None,
            logits_to_keep=index - int(self.diffusion.token_shift),
        )
        losses = _crossed(output.logits, self.text[self.maskable.to(device)], self.diffusion)
        return losses * masked

    def _visible(self, num_finished: int) -> Tensor:
        """bool [1, 1, noisy tokens, finished and noisy tokens]."""
        size, device = self.diffusion.block_size, self.text.device
        own = torch.arange(self.begin, self.end, device=device) // size
        finished = torch.arange(num_finished, device=device) // size
        return torch.cat([finished < own[:, None], own == own[:, None]], 1)[None, None]


def _crossed(logits: Tensor, targets: Tensor, diffusion: BlockDiffusion) -> Tensor:
    """Cross-entropies, float64 on the CPU, of logits [rows, tokens, vocabulary]; targets [tokens]."""
    found = []
    for row in logits:
        table = row.float()
        exclude_token(table, diffusion.mask_token_id)
        found.append(-table.log_softmax(-1).gather(1, targets.to(table.device)[:, None])[:, 0].double())
    return torch.stack(found).cpu()


@torch.no_grad()
def is_greedy(model: Any, ids: Sequence[int], start: int, sub_block: int = BlockDecoding.sub_block) -> bool:
    """Whether decoding one token a pass, of the answer ids[start:] alone, gives these tokens.

    Within the leftmost sub-block that lacks some the likeliest is filled in, as long as it is the answer's;
    so it costs a pass for each token of the answer, and less where it is wrong. Args and errors as of
    `bound_tokens`.
    """
    diffusion = check_diffusion(block_diffusion_of(model), "block decoding")
    size, mask, shift = diffusion.block_size, diffusion.mask_token_id, int(diffusion.token_shift)
    if not 1 <= start < len(ids):
        raise ValueError(f"cannot score {len(ids)} ids from {start} on")

    text = list(ids[:start])
    while len(text) < len(ids):
        place, begin = len(text), len(text) // size * size
        if shift and place == begin:
            if int(block_logprobs(model, text, diffusion)[-1].argmax()) != ids[place]:
                return False
            text.append(ids[place])
            continue
        noisy = text + [mask] * (begin + size - place)
        missing = list(range(place, min(begin + size, len(ids))))
        while missing:
            asked = [p for p in missing if (p - begin) // sub_block == (missing[0] - begin) // sub_block]
            found = block_logprobs(model, noisy, diffusion)[[p - shift for p in asked]]
            surest = int(found.amax(-1).argmax())
            place = asked[surest]
            if int(found[surest].argmax()) != ids[place]:
                return False
            noisy[place] = ids[place]
            missing.remove(place)
        text = list(ids[: min(begin + size, len(ids))])
    return True
