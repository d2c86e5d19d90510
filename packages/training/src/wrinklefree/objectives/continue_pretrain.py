"""Next-token cross-entropy: continued pre-training with quantization in the forward pass.

Of supervised records, over their answers: a mean over the labels of a step, all passes and ranks together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wrinklefree.capture import LAST_HIDDEN_STATE, View
from wrinklefree.config.ranges import number
from wrinklefree.objectives.base import (
    PLAIN,
    Objective,
    ObjectiveConfig,
    ObjectiveResult,
    Pass,
    TokenLosses,
    Wish,
    over_labels,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class ContinuePretrainConfig(ObjectiveConfig):
    """Next-token cross-entropy."""

    chunk_tokens: int = number(512, least=1)
    """Tokens whose logits exist at the same time (memory: chunk_tokens x vocabulary x 4 bytes)."""


class ContinuePretrain(Objective):
    config = ContinuePretrainConfig
    wishes = {PLAIN: Wish(student=LAST_HIDDEN_STATE)}  # noqa: RUF012

    def __init__(self, config: ContinuePretrainConfig) -> None:
        self.chunk_tokens = config.chunk_tokens

    def compute(self, passes: Mapping[str, Pass]) -> ObjectiveResult:
        from wrinklefree.cross_entropy import cross_entropy_of_tokens

        student, view = passes[PLAIN].student, passes[PLAIN].view
        assert student.head_weight is not None
        return self.result(
            view,
            *cross_entropy_of_tokens(
                student.last_hidden_state, student.head_weight, view["labels"], self.chunk_tokens
            ),
        )

    def result(self, view: View, loss: Tensor, token_losses: TokenLosses) -> ObjectiveResult:
        """Of the mean over the labels of a view, wherever it was computed."""
        value = loss.detach()
        metrics = {"loss_nats": value, "perplexity_ratio": value.exp()}
        return over_labels(view, ObjectiveResult(loss, metrics, token_losses))
