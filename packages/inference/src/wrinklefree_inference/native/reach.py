"""Which logits a draw can need, so that a head with a screen computes these alone.

Greedy draws need the largest, top-k the k largest (whatever comes after it), min-p those within so many nats
of the largest. Top-p alone asks for the mass of all tokens, and so do plain draws and log-probabilities;
masks, bias and penalties make other tokens the largest: those need all logits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from wrinklefree_inference.native.runner import Reach
from wrinklefree_inference.native.sequence import Sequence

GREEDY_BELOW = np.float32(1e-5)
"""Temperature from which on tokens are drawn by chance (csrc/sampler.h)."""
MARGIN_NATS = 2e-3
"""More than the sampler's own, for the roundings of its masses."""


def reach_of(drawn: Iterable[Sequence]) -> Reach | None:
    """What the next draws need of the rows of a step: each sequence's own and those of its guesses.

    Returns:
        None if some row needs all its logits.
    """
    counts: list[int] = []
    depths: list[float] = []
    for sequence in drawn:
        needed = _needed(sequence)
        if needed is None:
            return None
        num_rows = 1 + len(sequence.guesses.computed)
        counts += [needed[0]] * num_rows
        depths += [needed[1]] * num_rows
    return Reach(np.array(counts, np.int32), np.array(depths, np.float32)) if counts else None


def _needed(sequence: Sequence) -> tuple[int, float] | None:
    """How many of the largest logits, and how far below the largest; None: all."""
    sampling = sequence.request.sampling
    changes_logits = (
        sampling.logit_bias
        or sampling.repetition_penalty != 1
        or sampling.presence_penalty
        or sampling.frequency_penalty
    )
    if changes_logits or sampling.logprobs is not None or sequence.request.constraint is not None:
        return None
    if np.float32(sampling.temperature) < GREEDY_BELOW:
        return 1, 0.0
    if sampling.top_k > 0:
        return sampling.top_k, 0.0
    if sampling.top_p >= 1 and sampling.min_p > 0:
        return 1, sampling.temperature * (MARGIN_NATS - math.log(sampling.min_p))
    return None
