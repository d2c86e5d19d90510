"""Prompt lookup: a text goes on as it did where its end stood before
(github.com/apoorvumang/prompt-lookup-decoding).

The place that agrees with the end of prompt and answer in the most tokens is looked for, the latest of equal
ones; what followed there is the guess. Summaries, corrections, edits of code and answers about a document
repeat what they were given; free talk seldom does.

Cost: one comparison of the whole text with its last token, a few microseconds per 1,000 tokens; nothing is
kept.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from wrinklefree_inference.native.runner import Ints
from wrinklefree_inference.native.sequence import Sequence
from wrinklefree_inference.native.speculation.record import NOTHING, Guess

SHORTEST, LONGEST = 2, 16
MAX_PLACES = 512
"""The latest ones that are looked at, so that a text of one word alone costs no more than others."""
CONFIDENCE = (0.0, 0.0, 0.35, 0.45, 0.55, 0.65, 0.7, 0.75, 0.8, 0.8, 0.85, 0.85, 0.9, 0.9, 0.9, 0.9, 0.97)
"""By the number of tokens that agree: what was found in references of Dolly, MT-Bench and edited code."""


class NGramGuesser:
    """A `Guesser` without a state."""

    expectation = None

    def guess(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, Guess]:
        """See `Guesser`."""
        texts = (
            (sequence, sequence.tokens[: sequence.num_tokens], most) for sequence, most in wanted.items()
        )
        return {sequence: guess_after(text, most) for sequence, text, most in texts if most}

    def forget(self, sequence: Sequence) -> None:
        """Nothing is kept."""


def guess_after(text: Ints, most: int) -> Guess:
    """What followed the latest of the longest repetitions of the end of `text`.

    Args:
        text: int32 [n].
        most: Tokens wanted; what goes round in circles is guessed to go on so.
    """
    places = np.flatnonzero(text[:-1] == text[-1])[-MAX_PLACES:]
    agreed = min(1, len(places))
    while 0 < agreed < LONGEST:
        before = places[places >= agreed]
        further = before[text[before - agreed] == text[-1 - agreed]] if before.size else before
        if not further.size:
            break
        places, agreed = further, agreed + 1
    if agreed < SHORTEST:
        return NOTHING
    tokens = np.resize(text[places[-1] + 1 :], most).tolist()
    return Guess(tuple(tokens), tuple(CONFIDENCE[min(agreed + i, LONGEST)] for i in range(most)))
