"""What a causal LM of transformers makes of a token sequence: the one scorer in PyTorch.

logprob(t_{i+1}) = log_softmax(logits_i)[t_{i+1}] in float32, in slices of ROWS positions, so that one slice
of the log-softmax [ROWS, vocabulary] is held beside the logits, not a second table of their size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

ROWS = 256


@torch.no_grad()
def score_tokens(
    model: Any, ids: Sequence[int], start: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Scores of ids[start:], each given all ids before it.

    Args:
        model: Causal LM in evaluation mode.
        ids: Token ids, at least two.
        start: First position to score, in [1, len(ids) - 1].

    Returns:
        Natural log-probabilities float64 [n] and the most probable ids int64 [n], n = len(ids) - start.

    Raises:
        ValueError: `start` is out of range.
    """
    if not 1 <= start < len(ids):
        raise ValueError(f"cannot score {len(ids)} ids from {start} on")
    inputs = torch.tensor([list(ids[:-1])], device=model.device)
    logits = model(input_ids=inputs, logits_to_keep=len(ids) - start, use_cache=False).logits[0]
    targets = torch.tensor(list(ids[start:]), device=logits.device)
    logprobs, best = [], []
    for rows, row_targets in zip(torch.split(logits, ROWS), torch.split(targets, ROWS), strict=True):
        table = rows.float().log_softmax(-1)
        logprobs.append(table.gather(1, row_targets[:, None])[:, 0].double())
        best.append(table.argmax(-1))
    return torch.cat(logprobs).cpu().numpy(), torch.cat(best).cpu().numpy()
