"""What an autoregressive teacher says of the tokens that a denoiser predicts: by their left context alone, or
by what the denoiser sees on both sides (losses/concrete_score.py).

Of n predictions of a view `[noisy | clean]` (noisy_clean.py); the teacher reads the batch as it is.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from wf_formats.diffusion import BlockDiffusion
from wrinklefree.capture import View
from wrinklefree.objectives.base import Pass
from wrinklefree.predictions import DensePredictions, Predictions, SparsePredictions
from wrinklefree_distillation import noisy_clean as nc
from wrinklefree_distillation.losses import concrete_score as score
from wrinklefree_distillation.losses.predictions import rows_of
from wrinklefree_distillation.noise import noise_generator


class Target(NamedTuple):
    """said: of all predictions, [1, n, ...], right at `positions`, each of which stands for `stands_for`."""

    said: Predictions
    positions: Tensor
    stands_for: float


class Options(Protocol):
    """Those of `TcsDistillConfig` that exact targets depend on."""

    window_tokens: int
    asked_share: float
    candidates: int
    tail_draws: int
    branch_tokens: int
    chunk_tokens: int


class Question(NamedTuple):
    """num_choices: noisy halves of the view."""

    options: Options
    diffusion: BlockDiffusion
    num_choices: int


def of_left(view: View, clean: Pass, is_taught: Tensor) -> list[Target]:
    """p(v | x_<i) of each. Args: is_taught bool [n]."""
    return [Target(_left(view, clean), is_taught.nonzero().squeeze(1), 1.0)]


def _left(view: View, clean: Pass) -> Predictions:
    said = clean.taught.predictions
    assert said is not None
    # Token i is said at the token before it; a prediction without a target takes what is there.
    return rows_of(said, (view[nc.PREDICTED] - 1).clamp_min(0))


def of_both_sides(
    view: View, clean: Pass, is_taught: Tensor, question: Question, seed: int, step: int
) -> list[Target]:
    """As `of_left` where nothing is visible to the right; of the others some, drawn for this batch."""
    options, diffusion, num_choices = question
    width = visible_widths(view, num_choices, diffusion, options.window_tokens)
    needs_right = is_taught & (width > 0)
    said = _left(view, clean)
    targets = [Target(said, (is_taught & ~needs_right).nonzero().squeeze(1), 1.0)]
    waiting = needs_right.nonzero().squeeze(1)
    if not len(waiting):
        return targets
    generator = noise_generator(seed, step, view["input_ids"].cpu())
    num_asked = math.ceil(options.asked_share * len(waiting))
    chosen = torch.randperm(len(waiting), generator=generator)[:num_asked].sort().values
    asked = waiting[chosen.to(waiting.device)]
    found = _scored(view, clean, said, asked, width[asked], question, generator)
    return [*targets, Target(found, asked, len(waiting) / num_asked)]


def _scored(
    view: View,
    clean: Pass,
    said: Predictions,
    asked: Tensor,
    width: Tensor,
    question: Question,
    generator: torch.Generator,
) -> SparsePredictions:
    """The concrete score of the predictions `asked`; 0 for all others."""
    assert isinstance(said, DensePredictions)
    assert clean.ask is not None
    options, mask = question.options, question.diffusion.mask_token_id
    left = score.log_distribution(said.hidden[0, asked] @ said.head_weight.T, mask)
    own = view[nc.TARGETS][asked]
    tried = score.candidates(left, own, options.candidates, options.tail_draws, generator)
    predicted, num_tokens = view[nc.PREDICTED][asked], clean.view["input_ids"].shape[1]
    places = score.Places(predicted // num_tokens, predicted % num_tokens, width)
    products = score.log_products(
        clean.ask, clean.view, places, tried.ids, mask, options.branch_tokens, options.chunk_tokens
    )
    found = score.concrete_score(tried, products)
    ids, weights = (x.new_zeros(1, len(view[nc.TARGETS]), x.shape[2]) for x in (found.ids, found.weights))
    ids[:, asked], weights[:, asked] = found.ids, found.weights
    return SparsePredictions(ids, weights, found.has_tail)


def visible_widths(view: View, num_choices: int, diffusion: BlockDiffusion, most: int) -> Tensor:
    """How far to the right of each predicted token the last one is that its noisy block shows, [n]; at most
    `most`, 0 for none.
    """
    ids, positions = view["input_ids"].flatten(), view["position_ids"].flatten()
    place = view[nc.PREDICTING] + int(diffusion.token_shift)
    place = place.where(view[nc.HALVES] < num_choices, 0)
    offsets = torch.arange(1, most + 1, device=ids.device)
    right = place[:, None] + offsets
    inside, right = right < len(ids), right.clamp_max(len(ids) - 1)
    own = positions[place][:, None]
    # Positions go on within a document and begin anew in the next, and in the next half.
    is_near = (positions[right] == own + offsets) & (
        positions[right] // diffusion.block_size == own // diffusion.block_size
    )
    is_shown = inside & is_near & (ids[right] != diffusion.mask_token_id)
    widths = (is_shown * offsets).amax(1)
    return widths.where(view[nc.HALVES] < num_choices, 0)
