"""What a step adds to answers, as their readers get it."""

from __future__ import annotations

from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.native.request import Delta, FinishReason
from wrinklefree_inference.native.sequence import Sequence
from wrinklefree_inference.native.stops import Piece

StepEvent = tuple[Sequence, Delta | EngineError]
"""What was added to an answer, or the error that ends it."""


def joined(events: list[StepEvent]) -> list[StepEvent]:
    """One delta for all that a step added to an answer."""
    deltas: dict[Sequence, Delta] = {}
    failed: list[StepEvent] = []
    for sequence, event in events:
        if isinstance(event, EngineError):
            failed.append((sequence, event))
        else:
            deltas[sequence] = deltas[sequence] + event if sequence in deltas else event
    return [*deltas.items(), *failed]


def delta_of(sequence: Sequence, piece: Piece, reason: FinishReason | None) -> Delta:
    return Delta(
        text=piece.text,
        token_ids=piece.token_ids,
        logprobs=piece.logprobs,
        finish_reason=reason,
        cached_prompt_tokens=sequence.cached_prompt_tokens or 0,
        prompt_tokens=sequence.num_prompt,
        completion_tokens=sequence.num_generated,
        accepted_guesses=sequence.guesses.num_accepted,
        refused_guesses=sequence.guesses.num_refused,
        decoding_passes=sequence.num_passes,
    )
