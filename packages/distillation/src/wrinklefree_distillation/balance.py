"""How strongly each term of a loss pulls: norms of its gradient at one hidden state that all terms depend on.

The input of the block whose attention is compared is the last such state, so that a measurement costs one
backward pass through the blocks above it for each term, and nothing between measurements. Moving means of the
norms give weights: ratio x |gradient of the task| / |gradient of the term|. Adam does not see the size of the
whole loss, so the ratios between its terms are all that matters; and the ratio of the terms themselves says
little (a relation loss is a hundredth of the cross-entropy where their gradients are alike).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


class GradientNorms:
    """Moving means by term. Args: decay of the means, of one measurement to the next."""

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.means: dict[str, float] = {}

    def measure(self, terms: Mapping[str, Tensor], state: Tensor) -> None:
        """Update the means with the gradients of scalar terms at a hidden state; the graph stays.

        Every rank has to call it: the means are those of all ranks.
        """
        import torch

        norms = {}
        for name, term in terms.items():
            (gradient,) = torch.autograd.grad(term, state, retain_graph=True)
            norms[name] = gradient.float().norm().item()
        for name, norm in _over_ranks(norms).items():
            before = self.means.get(name, norm)
            self.means[name] = self.decay * before + (1 - self.decay) * norm

    def weight(self, term: str, beside: str, ratio: float) -> float | None:
        """What makes the gradient of `term` `ratio` times that of `beside`; None where it has none."""
        if not self.means.get(term):
            return None
        return ratio * self.means[beside] / self.means[term]

    def state_dict(self) -> dict[str, Any]:
        return dict(self.means)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.means = dict(state)


def _over_ranks(norms: dict[str, float]) -> dict[str, float]:
    from wrinklefree.distributed import gather_from_ranks

    ranks = gather_from_ranks(norms)
    return {name: sum(rank[name] for rank in ranks) / len(ranks) for name in norms}
