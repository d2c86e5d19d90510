"""Embeddings of prompts: the mean over all tokens of the hidden states after the final norm, of length 1.

The mean, not the last token's state: a model that was trained to predict puts into the last state what comes
next, and into all of them together what the text is about; and after the final norm no token weighs more than
the others. Every token's state is needed once, so nothing of such a prompt comes from the cache, except after
a preemption, where the sum of what was computed is kept.

States are added one after the other in float64: the result does not depend, to the bit, on how the prompt was
divided over steps. It is little-endian float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wrinklefree_inference.native.request import AnswerFailed, Delta
from wrinklefree_inference.native.sequence import Sequence, StepPlan

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class PooledPart:
    """Tokens of a prompt that a forward pass computes.

    Attributes:
        rows: int32, of the pass, of those whose states are not in the sum yet.
    """

    sequence: Sequence
    rows: Ints


def pooled_parts(plan: StepPlan, starts: Ints) -> list[PooledPart]:
    """Args: starts are the first rows of the plan's sequences."""
    return [
        PooledPart(sequence, _rows(sequence, count, start))
        for (sequence, count), start in zip(plan, starts.tolist(), strict=False)
        if sequence.request.embeds
    ]


def _rows(sequence: Sequence, count: int, start: int) -> Ints:
    known = min(max(sequence.num_pooled - sequence.num_computed, 0), count)
    return np.arange(start + known, start + count, dtype=np.int32)


def pool(part: PooledPart, states: Floats) -> Delta | AnswerFailed | None:
    """Add states [rows of the part, hidden]; the embedding once all tokens of the prompt have been."""
    sequence = part.sequence
    if sequence.pooled is None:
        sequence.pooled = np.zeros(states.shape[1])
    for state in states:
        sequence.pooled += state
    sequence.num_pooled += len(states)
    if sequence.num_pooled < sequence.num_prompt:
        return None
    values = normalized(sequence.pooled)
    if values is None:
        return AnswerFailed("the prompt has no embedding: its hidden states are not finite, or all zero")
    return Delta(
        text="",
        finish_reason="stop",
        cached_prompt_tokens=sequence.cached_prompt_tokens or 0,
        prompt_tokens=sequence.num_prompt,
        embedding=values,
    )


def normalized(vector: NDArray[np.floating]) -> bytes | None:
    """float32 of a vector made to have length 1; None of one that has no finite length above 0."""
    vector = vector.astype(np.float64)
    length = np.sqrt(np.dot(vector, vector))
    if not (np.isfinite(length) and length > 0):
        return None
    return (vector / length).astype("<f4").tobytes()
