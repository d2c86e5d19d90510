"""Prompts that are given out before their answers, with the log-probabilities of their tokens if asked for.

The row of a token says the token after it. So a forward pass that computes tokens[a:b] of a prompt gives out
its tokens up to b, the first one with the first pass and without a log-probability; a sequence that was
preempted begins again and gives out what it had not. A prompt that is not scored is given out at once.

The sampler finds the most probable tokens of each row and their log-probabilities; that of the prompt's own
token is as much smaller as its logit is, to the bit where it is among them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wrinklefree_inference.native.entries import Entries
from wrinklefree_inference.native.request import Delta, TokenLogprob
from wrinklefree_inference.native.sequence import Sequence, StepPlan

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class EchoPart:
    """tokens[first:end] of a prompt, to be given out after a forward pass.

    Attributes:
        rows: int32, of the pass, whose logits say tokens[max(first, 1):end]; none if nobody wants them.
    """

    sequence: Sequence
    first: int
    end: int
    rows: Ints


def echo_parts(plan: StepPlan, starts: Ints) -> list[EchoPart]:
    """Args: starts are the first rows of the plan's sequences."""
    parts = (
        _part(sequence, count, start)
        for (sequence, count), start in zip(plan, starts.tolist(), strict=False)
        if sequence.request.sampling.echo and sequence.num_echoed < sequence.num_prompt
    )
    return [part for part in parts if part.end > part.first]


def _part(sequence: Sequence, count: int, start: int) -> EchoPart:
    first, computed = sequence.num_echoed, sequence.num_computed
    if sequence.request.sampling.logprobs is None:
        return EchoPart(sequence, first, sequence.num_prompt, np.empty(0, np.int32))
    end = min(computed + count + 1, sequence.num_prompt)
    rows = np.arange(max(first, 1) - 1, end - 1, dtype=np.int32) + np.int32(start - computed)
    return EchoPart(sequence, first, end, rows)


class Echo:
    """Makes the deltas. Args: sample is `ternary_kernels.sample`."""

    def __init__(self, entries: Entries, sample: Callable[..., Any]) -> None:
        self._entries, self._sample = entries, sample

    def delta(self, part: EchoPart, logits: Floats) -> Delta:
        """Args: logits float32 [rows of the part, vocabulary].

        Raises:
            ValueError: They are no numbers.
        """
        sequence = part.sequence
        ids = sequence.tokens[part.first : part.end].tolist()
        logprobs = self._scores(ids, logits, sequence.request.sampling.logprobs)
        sequence.num_echoed = part.end
        return Delta(
            text=self._text(sequence, ids),
            token_ids=tuple(ids),
            logprobs=logprobs,
            cached_prompt_tokens=sequence.cached_prompt_tokens or 0,
            prompt_tokens=sequence.num_prompt,
            completion_tokens=sequence.num_generated,
        )

    def _text(self, sequence: Sequence, ids: list[int]) -> str:
        data = b"".join(map(self._entries.token_bytes, ids))
        return sequence.echo_decoder.decode(data, final=sequence.num_echoed == sequence.num_prompt)

    def _scores(self, ids: list[int], logits: Floats, num_top: int | None) -> tuple[TokenLogprob, ...]:
        if num_top is None:
            return ()
        unscored = [self._entries.of(ids[0], None)] if len(ids) > len(logits) else []
        if not (scored := ids[len(unscored) :]):
            return tuple(unscored)
        own = logits[np.arange(len(scored)), scored].tolist()
        tokens, best_logprobs, top_ids, top_logprobs = self._sample(logits, *_greedy(len(logits), num_top))
        best = logits[np.arange(len(scored)), tokens].tolist()
        entries = []
        for row, token_id in enumerate(scored):
            others = dict(zip(top_ids[row].tolist(), top_logprobs[row].tolist(), strict=True))
            logprob = others.get(token_id, own[row] - best[row] + float(best_logprobs[row]))
            entries.append(self._entries.of(token_id, logprob, list(others), list(others.values())))
        return (*unscored, *entries)


def _greedy(num_rows: int, num_top: int) -> tuple[Any, ...]:
    """Arguments of the sampler behind the logits: the most probable tokens, nothing drawn."""
    zeros, ones = np.zeros(num_rows, np.float32), np.ones(num_rows, np.float32)
    numbers = np.zeros(num_rows, np.uint64)
    history = [np.empty(0, np.int32)] * num_rows
    top = np.full(num_rows, num_top, np.int32)
    return zeros, zeros.astype(np.int32), ones, zeros, ones, history, numbers, numbers, top
