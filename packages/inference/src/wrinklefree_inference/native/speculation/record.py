"""What became of the guesses for one sequence: those of the step, how many were right so far, and how often.

How often a guess is right depends on how sure the guesser is and on the text: a guesser's own estimate counts
as `PRIOR_TRIES` tries, those of this sequence count beside it, the older the less.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable
from dataclasses import dataclass

PRIOR_TRIES = 4.0
MEMORY = 0.96
"""What a try counts for after the next one of its class: half after 17."""
NUM_CLASSES = 20


@dataclass(frozen=True)
class Guess:
    """What may come next in a text.

    Attributes:
        tokens: Ids of the vocabulary.
        confidence: For each, how likely it is right if all before it are, in [0, 1].
    """

    tokens: tuple[int, ...] = ()
    confidence: tuple[float, ...] = ()


NOTHING = Guess()


class GuessRecord:
    """Of one sequence.

    Attributes:
        num_accepted: Guesses that were computed and drawn.
        is_ahead: Whether the token that was drawn last had been computed, so that the next can be drawn too.
    """

    __slots__ = ("_guess", "_num_computed", "_num_judged", "_num_total", "_tries", "is_ahead", "num_accepted")

    def __init__(self) -> None:
        self.num_accepted = 0
        self.is_ahead = False
        self._guess, self._num_computed, self._num_judged, self._num_total = NOTHING, 0, 0, 0
        self._tries: dict[int, tuple[float, float]] = {}  # by class of confidence: tries, of these right

    @property
    def num_refused(self) -> int:
        """Guesses that were computed for nothing."""
        return self._num_total - self.num_accepted

    @property
    def computed(self) -> tuple[int, ...]:
        """The guesses that the step computes."""
        return self._guess.tokens[: self._num_computed]

    def begin(self, guess: Guess = NOTHING, num_computed: int = 0) -> None:
        """A step begins; the first guesses are computed, the others only judged."""
        self._guess, self._num_computed, self._num_judged = guess, num_computed, 0
        self._num_total += num_computed
        self.is_ahead = False

    def note(self, token: int) -> None:
        """Compare the token that was drawn with the guess."""
        place = self._num_judged
        self._num_judged += 1
        self.is_ahead = False
        if place > self._num_computed or place >= len(self._guess.tokens):
            return
        is_right = token == self._guess.tokens[place]
        self._learn(self._guess.confidence[place], is_right)
        self.is_ahead = is_right and place < self._num_computed
        self.num_accepted += self.is_ahead

    def chances(self, confidences: Iterable[float]) -> list[float]:
        """For each guess of such a confidence, how likely it and all before it are right."""
        return list(itertools.accumulate(map(self.rate, confidences), operator.mul))

    def rate(self, confidence: float) -> float:
        """How often guesses of such a confidence are right here."""
        tries, right = self._tries.get(_class_of(confidence), (0.0, 0.0))
        return (PRIOR_TRIES * confidence + right) / (PRIOR_TRIES + tries)

    def _learn(self, confidence: float, is_right: bool) -> None:
        tries, right = self._tries.get(_class_of(confidence), (0.0, 0.0))
        self._tries[_class_of(confidence)] = MEMORY * tries + 1, MEMORY * right + is_right


def _class_of(confidence: float) -> int:
    return int(confidence * NUM_CLASSES)
