"""Terms of `head.py` over predictions that were chosen one by one: rows of hidden states [1, n, h] that were
gathered first, `positions` are numbers of rows. The mask token is no outcome, of the student nor the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wrinklefree.cross_entropy import cross_entropy_rows
from wrinklefree.predictions import DensePredictions, Predictions, SparsePredictions
from wrinklefree_distillation.losses.chunked_divergence import Comparison, DivergenceTerm
from wrinklefree_distillation.losses.head import Term

_NEVER = -1e4
"""A logit whose probability is 0 in float32, in place of `wf_formats.diffusion.exclude_token`'s: the kernels'
exponential knows no -inf."""


class Shared:
    """A term of which each prediction has a share: sum of share times loss.

    losses: float32 [n], unweighted; 0 where the term has none, and before they are computed.
    """

    def __init__(self, term: Term, shares: Tensor) -> None:
        """Args: shares float32 [n], of all predictions."""
        self.term, self.shares = term, shares
        self.losses = torch.zeros_like(shares)
        self._has = torch.zeros_like(shares, dtype=torch.bool)
        self._has[term.positions] = True

    def add(self, positions: Tensor, logits: Tensor, losses: Tensor, gradient: Tensor) -> None:
        """To losses [m] and gradient [m, v] of the sum; logits [m, v] stay as they are."""
        has = self._has[positions]
        if not has.any():
            return
        own = positions[has]
        values, of_logits = self.term.compare(own, logits[has])
        self.losses[own] = values.float()
        shares = self.shares[own]
        losses[has] += values * shares
        of_sum = (shares * len(self.term.positions)).unsqueeze(1).to(of_logits.dtype)
        gradient[has] += of_logits.mul_(of_sum)


class Sum:
    """Of some terms over n predictions, as one term of `head_losses`: one gradient of the head for all."""

    def __init__(self, parts: Sequence[Shared]) -> None:
        self.parts = parts
        self.positions = torch.arange(len(parts[0].shares), device=parts[0].shares.device)

    def compare(self, positions: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        losses, gradient = logits.new_zeros(len(positions), dtype=torch.float64), torch.zeros_like(logits)
        for part in self.parts:
            part.add(positions, logits, losses, gradient)
        return losses * len(self.positions), gradient


class TokenTerm:
    """Mean cross-entropy of `targets` [n], each another token than `excluded`."""

    def __init__(self, targets: Tensor, positions: Tensor, excluded: int) -> None:
        self.targets, self.positions, self.excluded = targets, positions, excluded

    def compare(self, positions: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        logits[:, self.excluded] = _NEVER
        factor = 1 / max(len(self.positions), 1)
        losses, gradient = cross_entropy_rows(logits, self.targets[positions], factor)
        assert gradient is not None
        gradient[:, self.excluded] = 0
        return losses, gradient


class TaughtTerm:
    """A `DivergenceTerm` beside a teacher of autoregressive text, who as a rule has no row for `excluded`."""

    def __init__(self, teacher: Predictions, positions: Tensor, how: Comparison, excluded: int) -> None:
        """Args: teacher's are [1, n, ...]; a dense one's vocabulary is the student's, or lacks `excluded`
        alone."""
        self.positions, self.excluded = positions, excluded
        self._columns: slice | Tensor | None = None
        if isinstance(teacher, DensePredictions):
            head = teacher.head_weight
            self._columns = slice(len(head))
            if excluded < len(head):
                ids = torch.arange(len(head), device=head.device)
                self._columns = ids[ids != excluded]
                teacher = DensePredictions(teacher.hidden, head[self._columns])
        self._term = DivergenceTerm(teacher, positions, how)

    def compare(self, positions: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        if self._columns is None:
            logits[:, self.excluded] = _NEVER
            losses, gradient = self._term.compare(positions, logits)
            gradient[:, self.excluded] = 0
            return losses, gradient
        losses, of_columns = self._term.compare(positions, logits[:, self._columns].contiguous())
        gradient = logits.zero_()
        gradient[:, self._columns] = of_columns.to(gradient.dtype)
        return losses, gradient


def rows_of(found: Predictions, rows: Tensor) -> Predictions:
    """Args: rows [n], of the flattened [batch, tokens]. Returns: [1, n, ...]."""
    if isinstance(found, DensePredictions):
        return DensePredictions(found.hidden.flatten(0, 1)[rows].unsqueeze(0), found.head_weight)
    ids, weights = (x.flatten(0, 1)[rows].unsqueeze(0) for x in (found.ids, found.weights))
    return SparsePredictions(ids, weights, found.has_tail)
