"""The decoder: a whole forward pass of a batch of sequences in one call, over a paged key/value cache."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ternary_kernels import _native
from ternary_kernels.weights import LayerWeights, ModelWeights
from wf_formats.decoder_config import DecoderConfig

CacheType = Literal["f16", "int8"]


class Decoder:
    """Runs a model on several sequences at once.

    A token sees those before it; where the configuration has `diffusion`, in blocks of D tokens, those of its
    own block too, as far as they are in the cache or in the same call. A block may be computed again and
    again over the same places, with its beginning as the context.

    Results of a sequence do not depend, to the bit, on what else is in the batch or on how its tokens (with
    `diffusion`, its blocks) are divided over calls.

    Args:
        weights: what `load_model` gives.
        num_pages: pages of the key/value cache, 32 tokens each; memory is taken as they are used.
        cache_type: `f16`, or `int8` with a scale per token and head (half the memory, and faster behind long
            contexts; heads of at most 512).
        num_threads: 0 for one per core.

    Raises:
        ValueError: a tensor's shape does not fit the configuration, heads are too large for `int8`, or a
            layer of a model with `diffusion` has a window.
    """

    def __init__(
        self, weights: ModelWeights, num_pages: int, cache_type: CacheType = "f16", num_threads: int = 0
    ) -> None:
        self.config = weights.config
        self._native = _native.Decoder(_native_weights(weights), num_pages, cache_type, num_threads)

    @property
    def num_pages(self) -> int:
        return self._native.num_pages

    @property
    def page_bytes(self) -> int:
        """Bytes of one page in all layers."""
        return self._native.page_bytes

    @property
    def num_threads(self) -> int:
        return self._native.num_threads

    def forward(
        self,
        tokens: NDArray[np.int32],
        starts: NDArray[np.int32],
        contexts: NDArray[np.int32],
        pages: NDArray[np.int32],
        outputs: NDArray[np.int32],
        reach: tuple[NDArray[np.int32], NDArray[np.float32]] | None = None,
    ) -> NDArray[np.float32]:
        """Adds tokens to sequences and gives the logits that follow some of them.

        Args:
            tokens: [T] new tokens of all sequences.
            starts: [S + 1]; sequence s owns tokens[starts[s]:starts[s + 1]], at least one.
            contexts: [S] tokens of each sequence that are in the cache already.
            pages: [S, B] cache pages of each sequence: page i holds its tokens 32 i .. 32 i + 31. Entries
                beyond the last needed page are not read. Sequences may share full pages.
            outputs: [R] rows of `tokens` whose logits are wanted.
            reach: counts [R] and depths [R]: of each row, the `counts` largest logits are needed (those
                equal to the last of them too) and those within `depths` of the largest; a count of 0 needs
                all. Others may come as -inf, where that is faster: with a screen, some hundreds are left.
                None needs all.

        Returns:
            float32 [R, vocab]. What is not -inf does not depend, to the bit, on `reach`.

        Raises:
            ValueError: an id, position or page out of range; nothing was computed.
        """
        counts, depths = reach or (None, None)
        return self._native.forward(tokens, starts, contexts, pages, outputs, counts, depths)

    @property
    def screen_use(self) -> tuple[int, int]:
        """Rows of logits that the screen gave, and blocks of the head (16 rows) multiplied for them."""
        return self._native.screen_use

    def hidden_states(self, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """The states of tokens of the latest `forward` after the final norm: what the head multiplies.

        Args:
            rows: [R] rows of its `tokens`, whether their logits were wanted or not.

        Returns:
            float32 [R, hidden].

        Raises:
            ValueError: a row that it did not have.
        """
        return self._native.hidden_states(rows)


def _native_weights(weights: ModelWeights) -> _native.ModelWeights:
    return _native.ModelWeights(
        config=_native_config(weights.config),
        embedding=weights.embedding,
        head=weights.embedding if weights.head is None else weights.head,
        screen=weights.screen,
        final_norm=weights.final_norm,
        layers=[_native_layer(layer) for layer in weights.layers],
    )


def _native_config(config: DecoderConfig) -> _native.DecoderConfig:
    ropes = list(dict.fromkeys(layer.rope for layer in config.attention if layer.rope is not None))
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    diffusion = values.pop("diffusion")
    values["block_size"] = 1 if diffusion is None else diffusion.block_size
    values["ropes"] = [_native.Rope(list(rope.inverse_frequencies), rope.attention_factor) for rope in ropes]
    values["attention"] = [
        _native.LayerAttention(-1 if layer.rope is None else ropes.index(layer.rope), layer.window or 0)
        for layer in config.attention
    ]
    return _native.DecoderConfig(**values)


def _native_layer(layer: LayerWeights) -> _native.LayerWeights:
    return _native.LayerWeights(
        **{field.name: getattr(layer, field.name) for field in dataclasses.fields(layer)}
    )
