"""Log-probabilities of given tokens, computed between two steps of the engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wf_formats.kernel_sizes import PAGE_TOKENS
from wrinklefree_inference.engines.base import TokenScores
from wrinklefree_inference.engines.log_softmax import log_softmax_at
from wrinklefree_inference.native.core import Core
from wrinklefree_inference.native.pages import extend_digests, pages_for
from wrinklefree_inference.native.runner import Floats

CHUNK_TOKENS = 128
"""Tokens of one forward pass: its logits, 4 bytes each, are held at once (66 MB for 128256 of them)."""


def score(core: Core, ids: Sequence[int], start: int) -> TokenScores:
    """Scores of ids[start:], each given all ids before it.

    A beginning that the cache has is not computed again, as far as nothing before `start` - 1 is scored.
    """
    tokens = np.asarray(ids[:-1], np.int32)  # the last one is only predicted
    targets = np.asarray(ids, np.int64)
    digests: list[bytes] = []
    extend_digests(digests, tokens)
    cache = core.scheduler.cache
    pages = cache.match(digests[: (start - 1) // PAGE_TOKENS])
    num_cached = len(pages)
    pages += cache.take(pages_for(len(tokens)) - num_cached)
    logprobs = np.empty(len(ids) - start)
    best = np.empty(len(ids) - start, np.int64)
    try:
        for begin in range(num_cached * PAGE_TOKENS, len(tokens), CHUNK_TOKENS):
            end = min(begin + CHUNK_TOKENS, len(tokens))
            first = max(begin, start - 1)
            logits = _forward(core, tokens, pages, begin, end, min(first, end))
            if first < end:
                part = slice(first + 1 - start, end + 1 - start)
                logprobs[part], best[part] = log_softmax_at(logits, targets[first + 1 : end + 1])
        for index in range(num_cached, len(digests)):
            pages[index] = cache.publish(pages[index], digests[index])
    finally:
        cache.release(pages)
    return TokenScores(targets[start:], logprobs, best)


def _forward(
    core: Core, tokens: NDArray[np.int32], pages: list[int], begin: int, end: int, first: int
) -> Floats:
    """Compute tokens[begin:end] of one sequence; logits of those from `first` on."""
    return core.runner.forward(
        tokens[begin:end],
        np.array([0, end - begin], np.int32),
        np.array([begin], np.int32),
        np.array([pages], np.int32),
        np.arange(first - begin, end - begin, dtype=np.int32),
    )
