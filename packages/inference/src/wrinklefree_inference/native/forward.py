"""The arguments of a forward pass, made from a step's plan; guesses come behind the known tokens."""

from __future__ import annotations

import numpy as np

from wrinklefree_inference.native.pages import pages_for
from wrinklefree_inference.native.runner import Ints
from wrinklefree_inference.native.scheduler import StepPlan
from wrinklefree_inference.native.sequence import Sequence


def forward_arrays(plan: StepPlan) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """The arguments of `ModelRunner.forward`.

    Its outputs are, for each sequence that is drawn, the row of its last known token and those of its guesses.
    """
    num = len(plan)
    counts = np.fromiter((count + len(sequence.guesses.computed) for sequence, count in plan), np.int32, num)
    contexts = np.fromiter((sequence.num_computed for sequence, _ in plan), np.int32, num)
    starts = np.zeros(num + 1, np.int32)
    np.cumsum(counts, out=starts[1:])
    widths = [pages_for(int(end)) for end in contexts + counts]
    pages = np.zeros((num, max(widths)), np.int32)
    for row, width, (sequence, _) in zip(pages, widths, plan, strict=True):
        row[:width] = sequence.pages[:width]
    tokens = np.concatenate([part for sequence, count in plan for part in _tokens(sequence, count)])
    is_drawn = np.fromiter((sequence.is_drawn_after(count) for sequence, count in plan), np.bool_, num)
    outputs = starts[1:][is_drawn] - 1
    if len(tokens) > sum(count for _, count in plan):
        outputs = _rows_up_to(
            outputs, [len(s.guesses.computed) for s, count in plan if s.is_drawn_after(count)]
        )
    return tokens, starts, contexts, pages, outputs


def _tokens(sequence: Sequence, count: int) -> list[Ints]:
    known = sequence.tokens[sequence.num_computed : sequence.num_computed + count]
    guesses = sequence.guesses.computed
    return [known, np.array(guesses, np.int32)] if guesses else [known]


def _rows_up_to(lasts: Ints, numbers: list[int]) -> Ints:
    """Each of some rows with so many before it."""
    pairs = zip(lasts.tolist(), numbers, strict=True)
    return np.concatenate([np.arange(last - num, last + 1, dtype=np.int32) for last, num in pairs])
