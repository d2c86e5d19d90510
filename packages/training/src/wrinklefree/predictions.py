"""What a model says of the next token, in a form that needs no tensor of all logits.

A model in this process has its last hidden states and its head, from which a loss makes the logits of a
few tokens at a time; a teacher elsewhere has some ids with their weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor


@dataclass(frozen=True)
class DensePredictions:
    """hidden: [batch, tokens, h]; head_weight: [vocabulary, h]. Logits are hidden W^T."""

    hidden: Tensor
    head_weight: Tensor


@dataclass(frozen=True)
class SparsePredictions:
    """ids: [batch, tokens, k], int64; weights: [batch, tokens, k], float32, 0 where there are fewer than k.

    The weights of a token are probabilities at the temperature of the teacher's shape, or estimates of them;
    an id may be there more than once. has_tail: what their sum lacks to 1 is the probability of all other
    ids together, and no id with a weight is there twice.
    """

    ids: Tensor
    weights: Tensor
    has_tail: bool = False


Predictions: TypeAlias = DensePredictions | SparsePredictions
