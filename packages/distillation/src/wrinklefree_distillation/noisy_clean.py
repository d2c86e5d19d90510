"""The view of block diffusion, `[noisy | clean]` (docs/diffusion.md, "Training"), of a packed batch.

Documents are laid out anew, each filled up to whole blocks with mask tokens, since a block has to be in one
place of a row for all documents and the last block of a text is full of mask tokens in decoding.

With complementary masks a row is `[noisy | noisy | clean]`: clean tokens see no noise, so both choices of
masks share one clean half. That is three quarters of the tokens of two rows `[noisy | clean]`, and the same
numbers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bitnet_arch.block_masks import noisy_clean_block_mask, noisy_clean_mask
from data_handler.packing import IGNORED_LABEL
from wf_formats.diffusion import BlockDiffusion
from wrinklefree.capture import View
from wrinklefree.errors import RunError
from wrinklefree_distillation.noise import Noise, draw_noise

_SIZES = 16
"""Rows are filled up to a multiple of a sixteenth of the batch's, so there are few shapes and little
filling."""

PREDICTING, PREDICTED, TARGETS, PROBABILITIES, HALVES = (
    "predicting",
    "predicted",
    "targets",
    "probabilities",
    "halves",
)
"""Entries of the view beside those of `View`, [predictions] each: where in its flattened [batch, tokens] a
token is predicted; where in the batch's own that token is; which it is (IGNORED_LABEL in a batch without
labels, which has one prediction all the same); with which probability it was masked (1 for the first of a
block under the token shift); in which half of the row it is predicted, from 0, the clean one last: there the
firsts are."""
LABELLED = "labelled"
"""Another entry: bool [batch, tokens] of the batch's own, which tokens are to be predicted, masked or not."""


class Layout(NamedTuple):
    """Documents in whole blocks, on the CPU.

    places: [batch, tokens], where a token of the batch is in the new row.
    input_ids, position_ids, documents: [batch, new tokens]; documents are numbers of a row.
    """

    places: Tensor
    input_ids: Tensor
    position_ids: Tensor
    documents: Tensor


def lay_out(input_ids: Tensor, position_ids: Tensor, diffusion: BlockDiffusion) -> Layout:
    """Documents begin where position_ids is 0. Raises: RunError for rows that are shorter than a block."""
    (num_rows, num_tokens), size = input_ids.shape, diffusion.block_size
    if size > num_tokens:
        raise RunError(
            f"dlm: sequences of {num_tokens} tokens are shorter than the model's blocks of {size}: give "
            f"training.sequence_length_tokens={size} or more"
        )
    starts = position_ids == 0
    places = torch.arange(num_tokens).expand(num_rows, -1)
    missing = -(position_ids + 1) % size  # after each token, up to the end of its block
    places = places + (F.pad(missing[:, :-1], (1, 0)) * starts).cumsum(1)
    ends = places[:, -1] + 1 + missing[:, -1]
    width = _rounded_up(int(ends.max()), size, num_tokens)
    ids = torch.full((num_rows, width), diffusion.mask_token_id).scatter_(1, places, input_ids)
    begins = torch.zeros(num_rows, width, dtype=torch.long).scatter_(1, places, starts.long())
    # What follows the last document is none of its blocks.
    begins = F.pad(begins, (0, 1)).scatter_(1, ends[:, None], 1)[:, :-1]
    index = torch.arange(width).expand(num_rows, -1)
    positions = index - (index * begins).cummax(1).values
    return Layout(places, ids, positions, begins.cumsum(1) - 1)


def _rounded_up(width: int, block_size: int, num_tokens: int) -> int:
    step = block_size * -(-num_tokens // (_SIZES * block_size))
    return -(-width // step) * step


def labelled_tokens(batch: View, diffusion: BlockDiffusion) -> Tensor:
    """bool [batch, tokens]: which are predicted. Packing gives none to a document's first token, which an
    autoregressive model is given; without the token shift it is predicted too, where the second one is."""
    labelled = batch["labels"] != IGNORED_LABEL
    if diffusion.token_shift:
        return labelled
    starts = batch["position_ids"] == 0
    return labelled | (starts & F.pad(labelled[:, 1:] & ~starts[:, 1:], (0, 1)))


def noisy_clean_view(
    batch: View,
    diffusion: BlockDiffusion,
    eps: float,
    is_complementary: bool,
    generator: torch.Generator,
    flex_attention: bool,
) -> View:
    """The batch as block diffusion sees it, on its device.

    Raises: RunError for rows that are shorter than a block, and for a text that holds the mask token.
    """
    device = batch["input_ids"].device
    at_hand = {name: batch[name].cpu() for name in ("input_ids", "position_ids", "labels")}
    ids, positions = at_hand["input_ids"], at_hand["position_ids"]
    if bool((ids == diffusion.mask_token_id).any()):
        raise RunError(
            f"dlm: the text holds the mask token (id {diffusion.mask_token_id}), which stands for what is "
            "not known: leave it out of data.sources"
        )
    layout = lay_out(ids, positions, diffusion)
    labelled = labelled_tokens(at_hand, diffusion)
    is_first = positions % diffusion.block_size == 0
    if not diffusion.token_shift:
        is_first = torch.zeros_like(labelled)
    rows, tokens = (labelled & ~is_first).nonzero(as_tuple=True)
    width = layout.input_ids.shape[1]
    keys = rows * width + layout.places[rows, tokens] // diffusion.block_size
    noise = draw_noise(keys, eps, is_complementary, generator)
    places = layout.places[rows, tokens]
    noisy = layout.input_ids.repeat(len(noise.masked), 1, 1)
    for ids_of, masked in zip(noisy, noise.masked, strict=True):
        ids_of[rows[masked], places[masked]] = diffusion.mask_token_id
    view = {
        "input_ids": torch.cat([*noisy, layout.input_ids], 1),
        "position_ids": layout.position_ids.repeat(1, len(noisy) + 1),
        **_predictions(ids, layout, labelled & is_first, (rows, tokens), noise, diffusion.token_shift),
        LABELLED: labelled,
    }
    view = {name: values.to(device) for name, values in view.items()}
    is_flexible = flex_attention and device.type == "cuda"
    make_mask: Any = noisy_clean_block_mask if is_flexible else noisy_clean_mask
    view["visible"] = make_mask(layout.documents.to(device), diffusion.block_size, len(noisy))
    return view | {name: batch[name] for name in ("label_weight",) if name in batch}


def _predictions(
    ids: Tensor, layout: Layout, first: Tensor, maskable: tuple[Tensor, Tensor], noise: Noise, shift: bool
) -> View:
    """Of the masked tokens of each choice, then of the firsts.

    Args: ids [batch, tokens] of the batch; first: bool like them; maskable: rows and tokens that may be
    masked.
    """
    num_tokens = ids.shape[1]
    length, num_choices = layout.input_ids.shape[1], len(noise.masked)
    width = length * (num_choices + 1)
    choices, which = noise.masked.nonzero(as_tuple=True)
    rows, tokens = maskable[0][which], maskable[1][which]
    first_rows, first_tokens = first.nonzero(as_tuple=True)
    halves = torch.cat([choices, torch.full_like(first_rows, num_choices)])
    rows, tokens = torch.cat([rows, first_rows]), torch.cat([tokens, first_tokens])
    probabilities = torch.cat([noise.probabilities[choices, which], torch.ones(len(first_rows))])
    places = layout.places[rows, tokens] - int(shift)
    found = {
        PREDICTING: rows * width + halves * length + places,
        PREDICTED: rows * num_tokens + tokens,
        TARGETS: ids[rows, tokens],
        PROBABILITIES: probabilities,
        HALVES: halves,
    }
    if len(rows):
        return found
    nothing = {PREDICTING: 0, PREDICTED: 0, TARGETS: IGNORED_LABEL, PROBABILITIES: 1.0, HALVES: num_choices}
    return {name: torch.tensor([value]) for name, value in nothing.items()}
