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
from torch import Tensor

from bitnet_arch.diffusion_model import block_diffusion_of
from wf_formats.diffusion import check_autoregressive

ROWS = 256


@torch.no_grad()
def score_tokens(
    model: Any, ids: Sequence[int], start: int = 1, visible: Tensor | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Scores of ids[start:], each given all ids before it.

    Args:
        model: Causal LM in evaluation mode.
        ids: Token ids, at least two.
        start: First position to score, in [1, len(ids) - 1].
        visible: Bool [len(ids) - 1, len(ids) - 1], True where a token sees another; None: those before it.

    Returns:
        Natural log-probabilities float64 [n] and the most probable ids int64 [n], n = len(ids) - start.

    Raises:
        ValueError: `start` is out of range.
        ModelKindError: a block-diffusion model, and nothing says who sees whom.
    """
    if not 1 <= start < len(ids):
        raise ValueError(f"cannot score {len(ids)} ids from {start} on")
    inputs: dict[str, Any] = {"input_ids": torch.tensor([list(ids[:-1])], device=model.device)}
    if visible is None:
        check_autoregressive(block_diffusion_of(model), "a perplexity")
    else:
        inputs["attention_mask"] = visible[None, None].to(model.device)
    logits = model(**inputs, logits_to_keep=len(ids) - start, use_cache=False).logits[0]
    targets = torch.tensor(list(ids[start:]), device=logits.device)
    logprobs, best = [], []
    for rows, row_targets in zip(torch.split(logits, ROWS), torch.split(targets, ROWS), strict=True):
        table = rows.float().log_softmax(-1)
        logprobs.append(table.gather(1, row_targets[:, None])[:, 0].double())
        best.append(table.argmax(-1))
    return torch.cat(logprobs).cpu().numpy(), torch.cat(best).cpu().numpy()
