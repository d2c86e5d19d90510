"""Which masked tokens of a pass are drawn, and what they become.

Whether one is drawn depends on its distribution alone: the probability, under the model itself, of the token
that is likeliest after bias and penalties. What it becomes is then drawn by the request's temperature and
filters, with a number that belongs to its position in the answer. So one number serves a position however
often it is looked at, and being drawn early does not bend a token towards likely ones.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from wrinklefree_inference.native.blocks.sequence import Place
from wrinklefree_inference.native.draw_params import DrawParams, Draws, Sampler
from wrinklefree_inference.native.runner import Floats


def draw_places(sample: Sampler, places: list[Place], logits: Floats) -> tuple[list[Place], Draws]:
    """Draw what is likely enough, and of each sequence at least one.

    Args:
        places: Those of a sequence lie side by side, in the order of the text.
        logits: [places, vocabulary], -inf for the mask token.

    Returns:
        Those that were drawn, and their draws.

    Raises:
        ValueError: The sampler refuses a row.
    """
    nothing = np.zeros(len(places), np.float32)
    likeliest = DrawParams(places).arguments({}) | {
        "temperature": nothing,
        "num_logprobs": nothing.astype(np.int32),
    }
    _, logprobs, _, _ = sample(logits, **likeliest)
    rows = list(_drawn_rows(places, np.minimum(np.exp(logprobs), 1)))
    drawn = [places[row] for row in rows]
    return drawn, sample(logits[rows], **DrawParams(drawn).arguments({}))


def _drawn_rows(places: list[Place], confidences: Floats) -> Iterator[int]:
    for first, end in spans_of(places):
        own = confidences[first:end]
        is_drawn = own > places[first].sequence.threshold
        is_drawn[own.argmax()] = True
        yield from (first + np.flatnonzero(is_drawn)).tolist()


def spans_of(places: list[Place]) -> Iterator[tuple[int, int]]:
    """First and end of the places of each sequence."""
    first = 0
    for index, place in enumerate(places, 1):
        if index == len(places) or places[index].sequence is not place.sequence:
            yield first, index
            first = index
