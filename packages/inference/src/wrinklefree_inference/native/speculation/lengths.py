"""How many guesses a step computes: as many as make tokens come fastest, if no stream comes off worse.

A stream whose guesses are right with chances p1 >= p2 >= ... gains 1 + p1 + ... + pk tokens by k of them; the
step takes longer for all. Guesses are added in the order of their chances, those of all streams together. Of
all such beginnings that leave every stream at least `KEPT_SPEED` of the speed it has without, the one with
the most tokens a second is taken. So a lone stream speculates where that pays; beside streams that gain
nothing, where the step has room for more tokens at next to no cost.
"""

from __future__ import annotations

from collections.abc import Sequence

KEPT_SPEED = 0.97
WORTH_WHILE = 1.02
"""Times the speed without guesses that is asked of the whole: below, measurements are not to be trusted."""


def lengths_of(chances: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[int]:
    """Guesses to compute for each stream.

    Args:
        chances: For each stream, how likely each guess and all before it are right: not increasing.
        seconds: Of a step with 0, 1, ... guesses; there are no more.
    """
    offers = sorted(
        ((chance, stream) for stream, one in enumerate(chances) for chance in one),
        key=lambda offer: -offer[0],  # stable: of equal chances a stream's own come in order
    )
    plain_s, total = seconds[0], float(len(chances))
    lengths, tokens = [0] * len(chances), [1.0] * len(chances)
    best, best_speed = list(lengths), WORTH_WHILE * total / plain_s
    for step_s, (chance, stream) in zip(seconds[1:], offers, strict=False):
        lengths[stream] += 1
        tokens[stream] += chance
        total += chance
        if total / step_s > best_speed and min(tokens) / step_s >= KEPT_SPEED / plain_s:
            best, best_speed = list(lengths), total / step_s
    return best
