"""Next-token cross-entropy: continued pre-training with quantization in the forward pass."""

from __future__ import annotations

from wrinklefree.config.schema import ContinuePretrainConfig
from wrinklefree.cross_entropy import chunked_cross_entropy
from wrinklefree.forward import Batch, ForwardResult
from wrinklefree.objectives.base import Objective, ObjectiveResult


class ContinuePretrain(Objective):
    def __init__(self, config: ContinuePretrainConfig) -> None:
        self.chunk_tokens = config.chunk_tokens

    def compute(self, batch: Batch, student: ForwardResult, teacher: ForwardResult | None) -> ObjectiveResult:
        loss = chunked_cross_entropy(
            student.last_hidden_state, student.head_weight, batch["labels"], self.chunk_tokens
        )
        value = loss.detach()
        return ObjectiveResult(loss, {"loss_nats": value, "perplexity_ratio": value.exp()})
