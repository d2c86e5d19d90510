"""The loss of a model on held-out text."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wrinklefree.cross_entropy import chunked_cross_entropy
from wrinklefree.finite import check_finite
from wrinklefree.forward import run_forward

LOG = logging.getLogger("wrinklefree")
_CHUNK_TOKENS, _NOISE_NATS = 512, 0.01


@torch.no_grad()
def mean_loss(model: Any, ids: Tensor) -> float | None:
    """Mean next-token loss in nats over sequences [n, tokens]; None without any."""
    if not len(ids):
        return None
    positions = torch.arange(ids.shape[1]).expand(1, -1)
    total = 0.0
    for row in ids.unsqueeze(1):
        result = run_forward(model, {"input_ids": row, "position_ids": positions})
        assert result.head_weight is not None
        loss = chunked_cross_entropy(result.last_hidden_state, result.head_weight, row, _CHUNK_TOKENS)
        total += loss.item()
    return total / len(ids)


def finite_loss(model: Any, ids: Tensor, name: str) -> float | None:
    """`mean_loss` of a model that no step has changed. Args: name for the message.

    Raises: DivergedError before more is computed with a model whose loss is no number.
    """
    loss = mean_loss(model, ids)
    check_finite(
        loss,
        f"the held-out loss of the model ({name})",
        "its weights make numbers that float32 does not hold; load another revision of the source",
    )
    return loss


def warn_if_worse(losses: Mapping[str, float | None], before: str, after: str, remedy: str) -> None:
    """Where a stage's result predicts the held-out text less well than what it began with."""
    first, last = losses[before], losses[after]
    if first is None or last is None or last <= first + _NOISE_NATS:
        return
    LOG.warning(
        "the %s model predicts held-out text worse than the %s one (%.3f and %.3f nats a token): %s",
        after,
        before,
        last,
        first,
        remedy,
    )
