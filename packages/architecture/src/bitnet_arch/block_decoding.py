"""Decoding of a block-diffusion model in PyTorch, without a cache: what the native engine is held to.

docs/diffusion.md has the algorithm. Every pass computes the text from its beginning; in the engine the
finished blocks come from a cache, and a pass computes one block.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bitnet_arch.block_masks import block_causal_mask
from bitnet_arch.diffusion_model import block_diffusion_of
from wf_formats.block_decoding import BlockDecoding
from wf_formats.diffusion import SETTINGS_KEY, BlockDiffusion, exclude_token

Draw = Callable[[Tensor, int], int]
"""Log-probabilities [vocab] and the token's index in the answer, from 0, to a token."""


@dataclass(frozen=True)
class Decoded:
    """An answer, without the token that ended it."""

    token_ids: list[int]
    num_passes: int
    """Those that drew tokens of the answer or computed a finished block of it."""


def greedy(logprobs: Tensor, index: int) -> int:
    """The likeliest token; the first of equal ones."""
    return int(logprobs.argmax())


def drawn_with(uniforms: Callable[[int], float], temperature: float) -> Draw:
    """Draws in the order of token ids: the first whose running mass exceeds uniforms(index) of the whole."""

    def draw(logprobs: Tensor, index: int) -> int:
        masses = torch.softmax(logprobs.double() / temperature, -1).cumsum(-1)
        return int(torch.searchsorted(masses, uniforms(index) * masses[-1:], right=True))

    return draw


@torch.no_grad()
def decode_blocks(
    model: Any,
    prompt_ids: Sequence[int],
    max_tokens: int,
    decoding: BlockDecoding | None = None,
    draw: Draw = greedy,
    end_ids: Collection[int] = (),
) -> Decoded:
    """Continue a prompt.

    Args:
        model: A causal LM with `config.block_diffusion`, called with a mask of who sees whom.
        prompt_ids: At least one.
        end_ids: Tokens that end the answer.

    Raises:
        ValueError: the model is autoregressive, or the prompt empty or with mask tokens.
    """
    decoding = decoding or BlockDecoding()
    diffusion = block_diffusion_of(model)
    if diffusion is None:
        raise ValueError(f"config.{SETTINGS_KEY} is missing: the model is autoregressive")
    size, mask, shift = diffusion.block_size, diffusion.mask_token_id, diffusion.token_shift
    if not prompt_ids or mask in prompt_ids:
        raise ValueError(f"the prompt is {list(prompt_ids)}: give it a token, and no mask token ({mask})")

    text = list(prompt_ids)  # to the end of the block at hand, which has mask tokens for what is not known
    num_prompt, num_passes = len(text), 0
    while True:
        known = text.index(mask) if mask in text else len(text)
        length = _complete(text[num_prompt:known], max_tokens, end_ids)
        if length is not None:
            return Decoded(text[num_prompt:][:length], num_passes)
        if len(text) % size:  # the rest of the prompt
            text += [mask] * (-len(text) % size)
        elif known == len(text):  # all blocks are finished
            first = []
            if shift or known > num_prompt:
                logprobs = block_logprobs(model, text, diffusion)
                num_passes += 1
                first = [draw(logprobs[-1], known - num_prompt)] if shift else []
            text += first + [mask] * (size - len(first))
        else:
            start = len(text) - size
            sub_block = start + (known - start) // decoding.sub_block * decoding.sub_block
            end = min(sub_block + decoding.sub_block, len(text))
            asked = [place for place in range(known, end) if text[place] == mask]
            logprobs = block_logprobs(model, text, diffusion)[[place - shift for place in asked]]
            num_passes += 1
            confidences = logprobs.amax(-1).exp().clamp(max=1)
            is_drawn = confidences > decoding.threshold
            is_drawn[confidences.argmax()] = True
            for place, row in zip(torch.tensor(asked)[is_drawn].tolist(), logprobs[is_drawn], strict=True):
                text[place] = draw(row, place - num_prompt)


@torch.no_grad()
def block_logprobs(model: Any, ids: Sequence[int], diffusion: BlockDiffusion) -> Tensor:
    """Log-probabilities, float32 [tokens, vocab] on the CPU, of a pass over ids that may hold mask tokens.

    The mask token's are -inf. A row predicts the token after it with the token shift, else its own.
    """
    seen = block_causal_mask(len(ids), diffusion.block_size, model.device)[None, None]
    inputs = torch.tensor([list(ids)], device=model.device)
    logits = model(inputs, attention_mask=seen, use_cache=False).logits[0].float().cpu()
    exclude_token(logits, diffusion.mask_token_id)
    return logits.log_softmax(-1)


def _complete(answer: Sequence[int], max_tokens: int, end_ids: Collection[int]) -> int | None:
    """Length of an answer that is complete, without the token that ended it; None: it goes on."""
    ends = (index for index, token in enumerate(answer[:max_tokens]) if token in end_ids)
    return next(ends, max_tokens if len(answer) >= max_tokens else None)
