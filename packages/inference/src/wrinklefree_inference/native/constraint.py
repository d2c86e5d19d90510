"""Answers in a given form: the seam between the engine's step and what decides which tokens may come next.

A request carries a `TokenConstraint` (`GenerationRequest.constraint`). All its methods are called by the
worker's thread, in this order for each token of its answer:

    forward pass for all sequences
    mask()       of every sequence with a constraint, before any token is drawn
    draw         of all rows in one call of the sampler
    accept(id)   with the token that was drawn, the end-of-text token included
    is_over      true ends the answer, with finish reason "stop"; the token that was accepted is part of it

A step waits for all masks, so a slow one holds up every stream. What one raises ends its own answer with an
`AnswerFailed`, and no other. A sequence that is computed again after its pages were given away keeps its
constraint as it is: tokens are accepted once.
"""

from __future__ import annotations

import logging
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wf_formats.errors import UserError

logger = logging.getLogger(__name__)
Words = NDArray[np.uint32]


class TokenConstraint(Protocol):
    """Which tokens may come next in one answer."""

    def mask(self) -> Words:
        """What may be drawn now: uint32 [ceil(vocabulary / 32)], contiguous.

        Bit i % 32 of word i // 32 is set if token i may be drawn (what llguidance and xgrammar write). The
        vocabulary is the number of logits, which may be more than the tokenizer has. The array is this
        constraint's own; it is read before the next call of its methods, never after it, and never written.
        """

    def accept(self, token_id: int, /) -> None:
        """Take the token that was drawn."""

    @property
    def is_over(self) -> bool:
        """Whether nothing may follow."""


class ConstraintFailed(ValueError):  # noqa: N818 - ends one answer
    """A constraint cannot go on; the message may be shown to whoever asked."""


def mask_of(constraint: TokenConstraint, vocab: int) -> Words:
    """The checked mask for `vocab` logits.

    Raises:
        ConstraintFailed: The constraint raised something, or gave no such array.
    """
    try:
        mask = constraint.mask()
    except Exception as error:  # it is not ours, and must not end other answers
        raise _failed(error) from error
    shape, words = getattr(mask, "shape", None), (vocab + 31) // 32
    if not (
        isinstance(mask, np.ndarray)
        and mask.dtype == np.uint32
        and shape == (words,)
        and mask.flags.c_contiguous
    ):
        raise ConstraintFailed(
            f"its mask must be a contiguous uint32 array of {words} words for {vocab} logits, got "
            f"{getattr(mask, 'dtype', type(mask).__name__)} {shape or ''}"
        )
    return mask


def accept(constraint: TokenConstraint, token_id: int) -> bool:
    """Hand over a drawn token.

    Returns:
        Whether the answer is over.

    Raises:
        ConstraintFailed: The constraint raised something.
    """
    try:
        constraint.accept(token_id)
        return constraint.is_over
    except Exception as error:  # as above
        raise _failed(error) from error


def _failed(error: Exception) -> ConstraintFailed:
    """With the words of an error that is meant for users; of others the kind, and all of it in the log."""
    if isinstance(error, UserError):
        return ConstraintFailed(str(error))
    logger.error("a constraint failed", exc_info=error)
    return ConstraintFailed(f"its form cannot be kept ({type(error).__name__})")
