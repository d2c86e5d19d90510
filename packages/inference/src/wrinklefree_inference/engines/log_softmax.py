"""From logits to the log-probabilities of given tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wrinklefree_inference.errors import EngineError


def log_softmax_at(
    logits: NDArray[np.float32], targets: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """log_softmax(logits)[targets] with sums in float64, and the id of the greatest.

    Args:
        logits: float32 [n, vocabulary]; overwritten.
        targets: int64 [n].

    Returns:
        float64 [n] and int64 [n].

    Raises:
        EngineError: A row has a NaN or is not finite at its maximum: there are no probabilities to speak of.
    """
    rows = np.arange(len(targets))
    best = logits.argmax(1)
    top = logits.max(1, keepdims=True)
    if not np.isfinite(top).all():
        raise EngineError(
            f"the model's logits are not finite ({top[~np.isfinite(top)][0]}): its weights or its scales are "
            "damaged, or too large for float32"
        )
    logits -= top
    own = logits[rows, targets].astype(np.float64)
    np.exp(logits, out=logits)
    return own - np.log(logits.sum(1, dtype=np.float64)), best
