"""Which tokens of a batch count. A view may hold an `attention_mask` (0 for padding, at the end of a
sequence); documents begin where `position_ids` begins again at 0."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from wrinklefree.capture import View

if TYPE_CHECKING:
    from torch import Tensor


class Tokens(StrEnum):
    labelled = "labelled"
    """Predictions of tokens with a label: answers, in supervised data."""
    every = "every"
    """All predictions but those across the end of a document or of padding."""


def real_tokens(view: View) -> Tensor:
    """[batch, tokens], bool: no padding."""
    import torch

    mask = view.get("attention_mask")
    return torch.ones_like(view["input_ids"], dtype=torch.bool) if mask is None else mask.bool()


def documents(view: View) -> Tensor:
    """[batch, tokens]: the number of each token's document in its sequence."""
    return (view["position_ids"] == 0).cumsum(-1)


def visible_tokens(view: View) -> Tensor:
    """[batch, tokens, tokens]: the row's token may see the column's, of its document and not after it."""
    number = documents(view)
    return (number.unsqueeze(2) == number.unsqueeze(1)).tril()


def predicting_positions(view: View, tokens: Tokens) -> Tensor:
    """Positions of the flattened [batch, tokens] whose prediction, of the token after, counts."""
    from data_handler.packing import IGNORED_LABEL

    counts = view["labels"] != IGNORED_LABEL if tokens is Tokens.labelled else _continued(view)
    predicting = counts.roll(-1, dims=1)
    predicting[:, -1] = False
    return predicting.flatten().nonzero().squeeze(1)


def _continued(view: View) -> Tensor:
    return (view["position_ids"] != 0) & real_tokens(view)
