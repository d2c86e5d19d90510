"""The seam: what guesses the next tokens of a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from wrinklefree_inference.native.sequence import Sequence
from wrinklefree_inference.native.speculation.record import Guess

MAX_GUESSES = 16
"""Of one stream in one step."""


class Guesser(Protocol):
    """Guesses; used by the worker's thread alone. A wrong guess costs time and changes nothing."""

    @property
    def expectation(self) -> float | None:
        """How likely a guess is right, of guesses that take time to make.

        None: they cost next to nothing, so they are made at every step, and judged whether computed or not.
        """

    def guess(self, wanted: Mapping[Sequence, int], /) -> Mapping[Sequence, Guess]:
        """The next tokens of streams.

        Args:
            wanted: All streams that run, and how many tokens are wanted of each at most (0: none). What is
                kept for a sequence that is not among them is let go.

        Returns:
            A guess, or none, for each that wants some; not longer than wanted.
        """

    def forget(self, sequence: Sequence, /) -> None:
        """Let go what is kept for a sequence that has ended, if anything is."""
