"""What gradients are of: the loss of each example of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from data_handler.errors import DataError
from data_handler.packing import IGNORED_LABEL


class LossSums(NamedTuple):
    """Of each example: the sum of its tokens' losses, float [n], and of how many tokens, int [n]."""

    sums: Tensor
    labels: Tensor

    def of_examples(self) -> Tensor:
        """The mean loss of each example [n]; 0, without gradient, for one that has no label."""
        return self.sums / self.labels.clamp(min=1)

    def of_batch(self) -> Tensor:
        """The mean loss over all labelled tokens, as in a training step. Raises: DataError without any."""
        num_labels = self.labels.sum()
        if not num_labels:
            raise DataError("no token of the batch has a label, so it has no loss: give other text")
        return self.sums.sum() / num_labels


BatchLosses = Callable[[Any, Mapping[str, Tensor]], LossSums]
"""(model, batch) -> losses of the examples, which must not depend on each other."""


def next_token_losses(model: Any, batch: Mapping[str, Tensor]) -> LossSums:
    """Cross-entropy in nats of a Hugging Face causal LM.

    The logits exist at once, in float32: [n, tokens, vocabulary].

    Args:
        batch: input_ids and labels (aligned, -100 is not learned), int64 [n, tokens]; position_ids likewise.
    """
    logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits[
        :, :-1
    ]
    labels = batch["labels"][:, 1:]
    losses = F.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED_LABEL, reduction="none"
    )
    return LossSums(losses.view_as(labels).sum(1), (labels != IGNORED_LABEL).sum(1))
