"""Losses of the student's predictions, all from one product with its head, for a chunk of tokens at a time.

For each chunk: the logits once, then for each term its part of the loss and the gradient of that with respect
to the logits, and from it the gradients of hidden states and head, by term. These are all that is kept for
the backward pass, which scales them. Memory: about six tensors of chunk x vocabulary floats, whatever the
number of tokens; plainly it would be five of tokens x vocabulary for each term.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from wrinklefree.objectives.base import TokenLosses


class HeadLoss(NamedTuple):
    """mean: [] float32; by_token: what it is the mean of, without gradient, at the predicted tokens."""

    mean: Tensor
    by_token: TokenLosses


class Term(Protocol):
    """A mean over positions of the flattened [batch, tokens], whose prediction it judges."""

    @property
    def positions(self) -> Tensor:
        """[n], ascending; chunks take them in this order."""

    def compare(self, positions: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Losses of some positions [m], and the gradient of the term's mean with respect to logits [m, v],
        which are used up.
        """


class _HeadLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, terms: Sequence[Term], chunk: int, dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        """The mean of each term, then the losses of each by position, [tokens]; hidden [tokens, h]; weight
        [v, h]; dtype is that of the products."""
        positions, head = _united([term.positions for term in terms], len(hidden)), weight.to(dtype)
        sums = [_Sum(term, positions, hidden, weight, ctx.needs_input_grad) for term in terms]
        for chosen in positions.split(chunk):
            rows = hidden[chosen].to(dtype)
            logits = rows @ head.T
            for one in sums[:-1]:
                one.add(chosen, rows, logits.clone(), head)
            sums[-1].add(chosen, rows, logits, head)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*(s.grad_hidden for s in sums), *(s.grad_weight for s in sums))
        by_position = [s.losses for s in sums]
        ctx.mark_non_differentiable(*by_position)
        return *(s.mean() for s in sums), *by_position

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        saved, num_terms = ctx.saved_tensors, len(grads) // 2
        of_hidden, of_weight, of_means = saved[:num_terms], saved[num_terms:], grads[:num_terms]
        return _weighted(of_hidden, of_means), _weighted(of_weight, of_means), None, None, None


class _Sum:
    """The loss and gradients of one term, as far as the chunks have come."""

    def __init__(
        self, term: Term, positions: Tensor, hidden: Tensor, weight: Tensor, needs_grad: Sequence[bool]
    ) -> None:
        """Args: positions are those of all terms."""
        self.term, self.takes_all = term, len(term.positions) == len(positions)
        self.total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        self.losses = torch.zeros(len(hidden), dtype=torch.float32, device=hidden.device)
        self.grad_hidden = torch.zeros_like(hidden) if needs_grad[0] else None
        self.grad_weight = torch.zeros_like(weight) if needs_grad[1] else None
        self.counts = torch.zeros(len(hidden), dtype=torch.bool, device=hidden.device)
        self.counts[term.positions] = True

    def add(self, chosen: Tensor, rows: Tensor, logits: Tensor, head: Tensor) -> None:
        """Args: positions [m], their hidden states [m, h] and logits [m, v], which are used up."""
        if not self.takes_all:
            counts = self.counts[chosen]
            chosen, rows, logits = chosen[counts], rows[counts], logits[counts]
        if not len(chosen):
            return
        losses, grad_logits = self.term.compare(chosen, logits)
        self.total += losses.sum(dtype=torch.float64)
        self.losses[chosen] = losses.float()
        grad_logits = grad_logits.to(head.dtype)
        if self.grad_hidden is not None:
            self.grad_hidden[chosen] = (grad_logits @ head).to(self.grad_hidden.dtype)
        if self.grad_weight is not None:
            self.grad_weight += grad_logits.T @ rows

    def mean(self) -> Tensor:
        return (self.total / max(len(self.term.positions), 1)).float()


def _united(positions: Sequence[Tensor], num_tokens: int) -> Tensor:
    """Those of any term, ascending."""
    counted = torch.zeros(num_tokens, dtype=torch.bool, device=positions[0].device)
    counted[torch.cat(list(positions))] = True
    return counted.nonzero().squeeze(1)


def _weighted(saved: Sequence[Tensor | None], grads: Sequence[Tensor | None]) -> Tensor | None:
    """sum_i grads_i saved_i; None where there is none."""
    total = None
    for gradient, grad in zip(saved, grads, strict=True):
        if gradient is not None and grad is not None:
            total = gradient * grad if total is None else total.addcmul_(gradient, grad)
    return total


def head_losses(hidden: Tensor, weight: Tensor, terms: Sequence[Term], chunk_tokens: int) -> list[HeadLoss]:
    """The loss of each term; 0 for one without positions.

    hidden: [batch, tokens, h] of the student; weight: [vocabulary, h], its head; chunk_tokens: tokens whose
    logits exist at the same time. The products are in the dtype of autocast, where that is on.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    with torch.autocast(device, enabled=False):
        found = _HeadLosses.apply(hidden.flatten(0, 1), weight, terms, chunk_tokens, dtype)
    means, losses = found[: len(terms)], found[len(terms) :]
    return [
        HeadLoss(mean, _at_predicted(term.positions, values, len(hidden)))
        for term, mean, values in zip(terms, means, losses, strict=True)
    ]


def _at_predicted(positions: Tensor, losses: Tensor, num_sequences: int) -> TokenLosses:
    """Args: losses [tokens] at the predicting `positions`, none of which ends a sequence."""
    counted = torch.zeros(len(losses), dtype=torch.bool, device=losses.device)
    counted[positions] = True
    values, counted = (x.view(num_sequences, -1).roll(1, dims=1) for x in (losses, counted))
    return TokenLosses(values, counted)
