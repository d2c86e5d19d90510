"""The screen of a model's head: made once, when a model is packed, of the states that a text gives.

Most of a state's length lies along few directions, the same for most texts: of SmolLM2-135M's states (576
numbers) 64 directions leave a quarter of the length. What lies along them is multiplied in 8 bits, the rest
in 4, and Cauchy's inequality bounds what that leaves out (csrc/screen.h). Directions and factors decide how
many rows of the head a screen rules out, never what it answers.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ternary_kernels._native import PAGE_TOKENS, pack_screen
from ternary_kernels.decoder import Decoder
from ternary_kernels.screen_text import PASSAGES
from ternary_kernels.weights import ModelWeights
from wf_formats.tokenizer import TokenizerSource, rust_errors

MIN_DIRECTIONS, COLS_A_DIRECTION = 64, 24
MIN_WEIGHTS = 1 << 22
"""Of a smaller head, products take less time than choosing rows."""
MAX_PASSAGE_TOKENS, MIN_TOKENS = 320, 128
MAX_FACTOR = 16.0
_LARGER_FORMATS = ("q6", "q8")
_log = logging.getLogger(__name__)


def with_screen(weights: ModelWeights, tokenizer: TokenizerSource) -> ModelWeights:
    """The same model with a screen, if its head is large enough and of more bits than the 4 of a screen.

    Time: a forward pass of 900 tokens and 15 ns of a core for each weight of the head.
    """
    config, head = weights.config, weights.embedding if weights.head is None else weights.head
    if config.vocab_size * config.hidden_size < MIN_WEIGHTS or head.format not in _LARGER_FORMATS:
        return weights
    try:
        directions, factors = _directions(weights, tokenizer)
    except ValueError as error:  # a TokenizerError too
        _log.warning("the head gets no screen, and computes in full: %s", error)
        return weights
    return replace(weights, screen=pack_screen(head, directions, factors))


def _directions(
    weights: ModelWeights, tokenizer: TokenizerSource
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Raises ValueError where the texts give no states."""
    config = weights.config
    texts = _tokens_of(tokenizer, config.vocab_size, min(config.context_tokens, MAX_PASSAGE_TOKENS))
    if (num_tokens := sum(map(len, texts))) < MIN_TOKENS:
        raise ValueError(f"of ordinary text the tokenizer makes {num_tokens} tokens that the model has")
    states = states_of(weights, texts)
    if not np.isfinite(states).all():
        raise ValueError("the model's states are not finite")
    return directions_of(states, max(MIN_DIRECTIONS, config.hidden_size // COLS_A_DIRECTION))


def directions_of(states: NDArray[np.float32], most: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What states lie along, and factors that even out what they are beside that.

    Args:
        states: [N, hidden]; their lengths do not matter.
        most: directions; fewer where the states have no more.

    Returns:
        directions [n, hidden], orthonormal, and factors [n + hidden], of sums along them and of columns: the
        inverse root of what is usual there, so that what is kept badly is multiplied by little.
    """
    lengths = np.linalg.norm(states, axis=1, keepdims=True)
    states = states / np.maximum(lengths, np.float32(1e-20))
    directions = _principal(states, min(most, states.shape[1] // 4))
    along = states @ directions.T
    factors = _evening(along), _evening(states - along @ directions)
    return np.ascontiguousarray(directions), np.concatenate(factors)


def _principal(states: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """At most `most` and N first right singular vectors of [N, hidden], by the products of the N states: a
    third of the time of a decomposition of the states themselves."""
    wide = states.astype(np.float64)
    vectors = np.linalg.eigh(wide @ wide.T)[1][:, ::-1][:, :most]
    return np.linalg.qr(wide.T @ vectors)[0].T.astype(np.float32)


def _evening(inputs: NDArray[np.floating]) -> NDArray[np.float32]:
    """[N, n] -> the inverse roots of the columns' usual sizes, about 1."""
    sizes = np.sqrt(np.mean(inputs**2, axis=0))
    sizes = np.maximum(sizes, max(float(sizes.max()) * 1e-4, 1e-20))
    factors = np.sqrt(np.exp(np.mean(np.log(sizes))) / sizes)
    return np.clip(factors, 1 / MAX_FACTOR, MAX_FACTOR).astype(np.float32)


def states_of(weights: ModelWeights, texts: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
    """What the head multiplies after each token of some texts, [tokens, hidden]."""
    pages = [-(-len(text) // PAGE_TOKENS) for text in texts]
    decoder = Decoder(weights, max(pages))
    nothing = np.empty(0, np.int32)
    found = []
    for text, num_pages in zip(texts, pages, strict=True):
        starts, table = np.array([0, len(text)], np.int32), np.arange(num_pages, dtype=np.int32)[None]
        decoder.forward(text, starts, np.zeros(1, np.int32), table, nothing)
        found.append(decoder.hidden_states(np.arange(len(text), dtype=np.int32)))
    return np.concatenate(found)


def _tokens_of(tokenizer: TokenizerSource, vocab_size: int, most: int) -> list[NDArray[np.int32]]:
    with rust_errors("the tokenizer"):
        encoded = tokenizer.backend.encode_batch_fast(list(PASSAGES))
    texts = [np.array([i for i in part.ids if i < vocab_size][:most], np.int32) for part in encoded]
    return [text for text in texts if len(text)]
