"""The arguments of a forward pass, made from a step's plan."""

from __future__ import annotations

import numpy as np

from wrinklefree_inference.native.pages import pages_for
from wrinklefree_inference.native.runner import Ints
from wrinklefree_inference.native.scheduler import StepPlan


def forward_arrays(plan: StepPlan) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """The arguments of `ModelRunner.forward`."""
    num = len(plan)
    counts = np.fromiter((count for _, count in plan), np.int32, num)
    contexts = np.fromiter((sequence.num_computed for sequence, _ in plan), np.int32, num)
    starts = np.zeros(num + 1, np.int32)
    np.cumsum(counts, out=starts[1:])
    widths = [pages_for(sequence.num_computed + count) for sequence, count in plan]
    pages = np.zeros((num, max(widths)), np.int32)
    for row, width, (sequence, _) in zip(pages, widths, plan, strict=True):
        row[:width] = sequence.pages[:width]
    tokens = np.concatenate(
        [sequence.tokens[sequence.num_computed : sequence.num_computed + count] for sequence, count in plan]
    )
    is_drawn = np.fromiter((sequence.is_drawn_after(count) for sequence, count in plan), np.bool_, num)
    return tokens, starts, contexts, pages, starts[1:][is_drawn] - 1
