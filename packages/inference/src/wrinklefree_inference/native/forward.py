"""The arguments of a forward pass, made from a step's plan; guesses come behind the known tokens."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from typing import NamedTuple

import numpy as np

from wrinklefree_inference.native.pages import pages_for
from wrinklefree_inference.native.runner import Ints
from wrinklefree_inference.native.sequence import Sequence, StepPlan


class Part(NamedTuple):
    """New tokens of one sequence.

    Attributes:
        tokens: int32 [n].
        context: Tokens before them, which are in the cache.
        pages: Those of the sequence, in the order of the text.
    """

    tokens: Ints
    context: int
    pages: Ints | list[int]


def batch_of(parts: SequenceOf[Part]) -> tuple[Ints, Ints, Ints, Ints]:
    """Tokens, starts, contexts and pages for `ModelRunner.forward`."""
    starts = np.zeros(len(parts) + 1, np.int32)
    np.cumsum([len(part.tokens) for part in parts], out=starts[1:])
    contexts = np.array([part.context for part in parts], np.int32)
    widths = [pages_for(part.context + len(part.tokens)) for part in parts]
    pages = np.zeros((len(parts), max(widths)), np.int32)
    for row, width, part in zip(pages, widths, parts, strict=True):
        row[:width] = part.pages[:width]
    return np.concatenate([part.tokens for part in parts]), starts, contexts, pages


def forward_arrays(plan: StepPlan) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """The arguments of `ModelRunner.forward`.

    Its outputs are, for each sequence that is drawn, the rows of its last known token and of its guesses.
    """
    tokens, starts, contexts, pages = batch_of([_part(sequence, count) for sequence, count in plan])
    outputs = [
        np.arange(end - len(sequence.guesses.computed) - 1, end, dtype=np.int32)
        for (sequence, count), end in zip(plan, starts[1:].tolist(), strict=True)
        if sequence.is_drawn_after(count)
    ]
    return tokens, starts, contexts, pages, np.concatenate([np.empty(0, np.int32), *outputs])


def _part(sequence: Sequence, count: int) -> Part:
    tokens = sequence.tokens[sequence.num_computed : sequence.num_computed + count]
    if guesses := sequence.guesses.computed:
        tokens = np.concatenate([tokens, np.array(guesses, np.int32)])
    return Part(tokens, sequence.num_computed, sequence.pages)
