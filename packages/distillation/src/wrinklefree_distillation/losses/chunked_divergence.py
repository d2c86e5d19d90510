"""Divergence of two models' next-token distributions as a term of `head.py`; the teacher's logits, too, exist
for a chunk of tokens at a time.

The loss is multiplied by temperature^2, so that its gradient keeps its size (Hinton et al. 2015,
section 2.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wrinklefree.predictions import DensePredictions, Predictions
from wrinklefree_distillation.losses.divergences import DivergenceRows, Rows
from wrinklefree_distillation.losses.head import HeadLoss, head_losses

_TINY = 1e-30


@dataclass(frozen=True)
class Comparison:
    """What is compared, and how. chunk_tokens: tokens whose logits exist at the same time."""

    divergence: DivergenceRows
    temperature: float
    chunk_tokens: int


@dataclass(frozen=True)
class DivergenceTerm:
    """Mean over `positions` in nats, times the temperature squared."""

    teacher: Predictions
    positions: Tensor
    how: Comparison

    def compare(self, positions: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        temperature = self.how.temperature
        # d(t^2 D)/d(logits) is t times the gradient with respect to logits / t.
        factor = temperature / max(len(self.positions), 1)
        values, gradient = self._rows(positions, self._cooled(logits), factor)
        return values * temperature**2, gradient

    def _rows(self, positions: Tensor, logits: Tensor, factor: float) -> Rows:
        teacher = self.teacher
        if isinstance(teacher, DensePredictions):
            expected = teacher.hidden.flatten(0, 1)[positions] @ teacher.head_weight.T
            return self.how.divergence(self._cooled(expected), logits, factor)
        ids, weights = (x.flatten(0, 1)[positions] for x in (teacher.ids, teacher.weights))
        of_ids = _with_tail if teacher.has_tail else _sparse_forward
        values, gradient = of_ids(ids, weights, logits.float().log_softmax(-1))
        return values, gradient.mul_(factor)

    def _cooled(self, logits: Tensor) -> Tensor:
        temperature = self.how.temperature
        return logits if temperature == 1 else logits.float() / temperature


def _sparse_forward(ids: Tensor, weights: Tensor, log_q: Tensor) -> Rows:
    """Cross-entropy of weighted ids: forward KL without the teacher's entropy, which nobody knows."""
    gradient = log_q.exp() * weights.sum(-1, keepdim=True)
    gradient.scatter_add_(1, ids, -weights)
    return -(weights * log_q.gather(1, ids)).sum(-1), gradient


def _with_tail(ids: Tensor, weights: Tensor, log_q: Tensor) -> Rows:
    """Forward KL of the ids with a weight and of all others as one outcome."""
    others = torch.ones_like(log_q).scatter_reduce_(1, ids, (weights == 0).float(), "amin")
    q = log_q.exp()
    p_tail, q_tail = (1 - weights.sum(-1)).clamp_min(0), (q * others).sum(-1).clamp_min(_TINY)
    of_ids = (torch.xlogy(weights, weights) - weights * log_q.gather(1, ids)).sum(-1)
    value = of_ids + torch.xlogy(p_tail, p_tail) - p_tail * q_tail.log()
    gradient = q - others * q * (p_tail / q_tail).unsqueeze(-1)
    return value, gradient.scatter_add_(1, ids, -weights)


def chunked_divergence(
    hidden: Tensor, weight: Tensor, teacher: Predictions, positions: Tensor, how: Comparison
) -> HeadLoss:
    """Mean divergence of the chosen positions, in nats, times the temperature squared; 0 for no position.

    hidden: [batch, tokens, h] of the student; weight: [vocabulary, h], its head; positions: [n], of the
    flattened batch x tokens, ascending.
    """
    (found,) = head_losses(hidden, weight, [DivergenceTerm(teacher, positions, how)], how.chunk_tokens)
    return found
