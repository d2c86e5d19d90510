"""What computes logits: a small protocol, so that the engine runs in tests with a model written in numpy."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from wrinklefree_inference.errors import EngineError

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]


class Reach(NamedTuple):
    """Which logits of each row are needed: the `counts` largest, and those within `depths` of the largest.

    Attributes:
        counts: int32 [R].
        depths: float32 [R].
    """

    counts: Ints
    depths: Floats


class ModelRunner(Protocol):
    """What computes logits: `ternary_kernels.Decoder`."""

    @property
    def num_pages(self) -> int:
        """Pages of the key-value cache."""

    def forward(
        self,
        tokens: Ints,
        starts: Ints,
        contexts: Ints,
        pages: Ints,
        outputs: Ints,
        reach: Reach | None = None,
        /,
    ) -> Floats:
        """Compute new tokens of several sequences.

        Args:
            tokens: int32 [T], the new tokens of all sequences.
            starts: int32 [S + 1]; sequence s owns tokens[starts[s]:starts[s + 1]].
            contexts: int32 [S], tokens of each sequence that are in the cache.
            pages: int32 [S, B], the sequence's pages in order; unused entries are 0.
            outputs: int32 [R], rows of `tokens` whose logits are wanted (R may be 0).
            reach: Which of their logits are needed, others may be -inf; None: all.

        Returns:
            float32 [R, vocabulary].
        """

    def hidden_states(self, rows: Ints, /) -> Floats:
        """States after the final norm, float32 [R, hidden], of rows (int32) of the latest pass's tokens."""


class NoRunner:
    """In the place of a decoder that was released."""

    num_pages = 0

    def forward(
        self,
        tokens: Ints,
        starts: Ints,
        contexts: Ints,
        pages: Ints,
        outputs: Ints,
        reach: Reach | None = None,
        /,
    ) -> Floats:
        raise EngineError("the engine is closed")

    def hidden_states(self, rows: Ints, /) -> Floats:
        raise EngineError("the engine is closed")
