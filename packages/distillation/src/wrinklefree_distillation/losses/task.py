"""Next-token cross-entropy as a term beside others that need the same logits."""

from __future__ import annotations

from torch import Tensor

from wrinklefree.cross_entropy import cross_entropy_rows


class CrossEntropyTerm:
    """Mean loss in nats over the labels of [batch, tokens] at `positions`, those before them (tokens.py)."""

    def __init__(self, labels: Tensor, positions: Tensor) -> None:
        self.labels, self.positions = labels.flatten(), positions

    def compare(self, positions: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        factor = 1 / max(len(self.positions), 1)
        losses, gradient = cross_entropy_rows(logits, self.labels[positions + 1], factor)
        assert gradient is not None
        return losses, gradient
