"""Terms of `head.py` over predictions that were chosen one by one: rows of hidden states [1, n, h] that were
gathered first, `positions` are numbers of rows. The mask token is no outcome, of the student nor the teacher.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wrinklefree.cross_entropy import cross_entropy_rows
from wrinklefree.predictions import DensePredictions, Predictions, SparsePredictions
from wrinklefree_distillation.losses.chunked_divergence import Comparison, DivergenceTerm
from wrinklefree_distillation.losses.head import Term


class Shared:
    """A term with a share for each prediction: its mean is that of n times share times loss.

    losses: float32 [n], unweighted; 0 before they are computed, and where the term has none.
    """

    def __init__(self, term: Term, shares: Tensor) -> None:
        """Args: shares [n], of all predictions."""
        self.term, self.positions = term, term.positions
        self._shares = shares * max(len(self.positions), 1)
        self.losses = torch.zeros_like(shares, dtype=torch.float32)

    def compare(self, positions: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        losses, gradient = self.term.compare(positions, logits)
        self.losses[positions] = losses.float()
        shares = self._shares[positions]
        return losses * shares, gradient.mul_(shares.unsqueeze(1).to(gradient.dtype))


class TokenTerm:
    """Mean cross-entropy of `targets` [n], each another token than `excluded`."""

    def __init__(self, targets: Tensor, positions: Tensor, excluded: int) -> None:
        self.targets, self.positions, self.excluded = targets, positions, excluded

    def compare(self, positions: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        logits[:, self.excluded] = -torch.inf
        factor = 1 / max(len(self.positions), 1)
        losses, gradient = cross_entropy_rows(logits, self.targets[positions], factor)
        assert gradient is not None
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
            logits[:, self.excluded] = -torch.inf
            return self._term.compare(positions, logits)
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
