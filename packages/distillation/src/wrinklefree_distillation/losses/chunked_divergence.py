"""Divergence of two models' next-token distributions, with logits that exist one chunk of tokens at a time.

For each chunk: both models' logits over the temperature, their log-softmax in float32, the divergence and
its gradient, and from that the gradients of the student's hidden states and head. These are all that is kept
for the backward pass, which scales them. Memory: about six tensors of chunk x vocabulary floats, whatever
the number of tokens; plainly it would be five of tokens x vocabulary.
The loss is multiplied by temperature^2, so that its gradient keeps its size (Hinton et al. 2015,
section 2.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wrinklefree.predictions import DensePredictions, Predictions, SparsePredictions
from wrinklefree_distillation.losses.divergences import DivergenceRows, Rows

_TINY = 1e-30


@dataclass(frozen=True)
class Comparison:
    """What is compared, and how. chunk_tokens: tokens whose logits exist at the same time."""

    divergence: DivergenceRows
    temperature: float
    chunk_tokens: int


class _Teacher:
    """The rows of a teacher's predictions that are compared, by chunk."""

    def __init__(self, predictions: Predictions, positions: Tensor, how: Comparison) -> None:
        self.predictions, self.positions, self.how = predictions, positions, how

    def compare(self, start: int, stop: int, log_q: Tensor) -> Rows:
        chosen = self.positions[start:stop]
        if isinstance(self.predictions, SparsePredictions):
            ids, weights = (x.flatten(0, 1)[chosen] for x in (self.predictions.ids, self.predictions.weights))
            return (_with_tail if self.predictions.has_tail else _sparse_forward)(ids, weights, log_q)
        return self.how.divergence(self._log_p(self.predictions, chosen), log_q)

    def _log_p(self, dense: DensePredictions, chosen: Tensor) -> Tensor:
        logits = dense.hidden.flatten(0, 1)[chosen] @ dense.head_weight.T
        return (logits.float() / self.how.temperature).log_softmax(-1)


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


class _ChunkedDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, positions: Tensor, teacher: _Teacher, dtype: torch.dtype
    ) -> Tensor:
        """Mean over `positions` [n] of hidden [tokens, h]; weight [v, h]; dtype is that of the products."""
        how, head = teacher.how, weight.to(dtype)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.zeros_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        # d(t^2 D)/d(logits) is t times the gradient with respect to logits / t.
        factor = how.temperature / max(len(positions), 1)
        for start in range(0, len(positions), how.chunk_tokens):
            chosen = positions[start : start + how.chunk_tokens]
            rows = hidden[chosen].to(dtype)
            log_q = ((rows @ head.T).float() / how.temperature).log_softmax(-1)
            values, grad_logits = teacher.compare(start, start + how.chunk_tokens, log_q)
            total += values.sum()
            grad_logits = grad_logits.mul_(factor).to(dtype)
            if grad_hidden is not None:
                grad_hidden[chosen] = (grad_logits @ head).to(hidden.dtype)
            if grad_weight is not None:
                grad_weight += grad_logits.T @ rows
        ctx.save_for_backward(grad_hidden, grad_weight)
        return (how.temperature * factor * total).float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden, weight = (None if saved is None else saved * grads[0] for saved in ctx.saved_tensors)
        return hidden, weight, None, None, None


def chunked_divergence(
    hidden: Tensor, weight: Tensor, teacher: Predictions, positions: Tensor, how: Comparison
) -> Tensor:
    """Mean divergence of the chosen positions, in nats, times the temperature squared; 0 for no position.

    hidden: [batch, tokens, h] of the student; weight: [vocabulary, h], its head; positions: [n], of the
    flattened batch x tokens. The products are in the dtype of autocast, where that is on.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    with torch.autocast(device, enabled=False):
        loss: Tensor = _ChunkedDivergence.apply(
            hidden.flatten(0, 1), weight, positions, _Teacher(teacher, positions, how), dtype
        )
    return loss
