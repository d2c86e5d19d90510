"""The student's next-token distribution towards the teacher's.

loss = T^2 mean_t D(softmax(z_teacher / T), softmax(z_student / T)), D as chosen (losses/divergences.py).
Forward KL is the choice for text of others, reverse KL for text that the student wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wrinklefree.capture import LAST_HIDDEN_STATE, Capture, Shape, View
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
from wrinklefree_distillation.options import Divergence
from wrinklefree_distillation.tokens import Tokens, predicting_positions

if TYPE_CHECKING:
    from torch import Tensor

    from wrinklefree.predictions import Predictions
    from wrinklefree_distillation.losses.chunked_divergence import Comparison


@dataclass
class LogitsDistillConfig(ObjectiveConfig):
    """Divergence of the next-token distributions."""

    divergence: Divergence = Divergence.forward
    """forward, reverse, js, skew_forward or skew_reverse."""
    beta: float = number(0.5, above=0, below=1)
    """js: the teacher's share of the mixture; near 0 like forward KL, near 1 like reverse KL."""
    alpha: float = number(0.1, above=0, below=1)
    """skew_*: how much of itself the distribution that is compared is compared with."""
    temperature: float = number(1.0, above=0)
    tokens: Tokens = Tokens.labelled
    """labelled: predictions of tokens with a label; every: of all tokens but the first of a document."""
    chunk_tokens: int = number(512, least=1)
    """Tokens whose logits exist at the same time (memory: about chunk_tokens x vocabulary x 24 bytes)."""


def check_temperature(asked: float, sparse: float) -> None:
    """Raises: ValueError for another temperature than that of a teacher's predictions that are some ids."""
    if asked != sparse:
        raise ValueError(
            f"temperature={asked:g}, and the teacher's targets are of temperature {sparse:g}: give that, or "
            "write others"
        )


class LogitsDistill(Objective):
    config = LogitsDistillConfig
    wishes = {PLAIN: Wish(student=LAST_HIDDEN_STATE, teacher=Capture(predictions=True))}  # noqa: RUF012

    def __init__(self, config: LogitsDistillConfig) -> None:
        self.options = config

    def check(self, student: Shape, teacher: Shape) -> None:
        if teacher.vocab_size is not None and student.vocab_size != teacher.vocab_size:
            raise ValueError(
                f"the student's vocabulary has {student.vocab_size} tokens and the teacher's "
                f"{teacher.vocab_size}; choose a teacher with the student's tokenizer (model.teacher)"
            )

        if teacher.sparse_temperature is not None:
            self._check_sparse(teacher.sparse_temperature)

    def _check_sparse(self, temperature: float) -> None:
        """Some ids with weights say what forward KL takes, and only at their own temperature."""
        options = self.options
        if options.divergence is not Divergence.forward:
            raise ValueError(
                f"divergence={options.divergence} takes the teacher's whole distribution, and this one gives "
                "some tokens of it: choose divergence=forward or model.teacher.kind=local"
            )
        check_temperature(options.temperature, temperature)

    def compute(self, passes: Mapping[str, Pass]) -> ObjectiveResult:
        from wrinklefree_distillation.losses.chunked_divergence import chunked_divergence

        (shown,) = passes.values()
        assert shown.student.head_weight is not None
        loss = chunked_divergence(
            shown.student.last_hidden_state, shown.student.head_weight, *self.compared(shown)
        )
        return self.result(shown.view, *loss)

    def compared(self, shown: Pass) -> tuple[Predictions, Tensor, Comparison]:
        """The teacher's predictions, the positions that count, and how."""
        from wrinklefree_distillation.losses.chunked_divergence import Comparison
        from wrinklefree_distillation.losses.divergences import divergence_rows

        options = self.options
        assert shown.taught.predictions is not None
        rows = divergence_rows(options.divergence, options.beta, options.alpha)
        how = Comparison(rows, options.temperature, options.chunk_tokens)
        return shown.taught.predictions, predicting_positions(shown.view, options.tokens), how

    def result(self, view: View, loss: Tensor, token_losses: TokenLosses) -> ObjectiveResult:
        """Of the loss on a view, wherever it was computed."""
        metrics = {"divergence_nats": loss.detach() / self.options.temperature**2}
        result = ObjectiveResult(loss, metrics, token_losses)
        return over_labels(view, result) if self.options.tokens is Tokens.labelled else result
