"""Who speculates in a step, and how far: guesser, costs of steps, what became of guesses, room in the cache.

Only a step speculates in which every sequence is a stream, and of few: beside a prompt's chunk there is
little to win. What a step costs is noted of these steps, with guesses and without. Free guesses are made
first, then it is chosen how many of them are computed; others are chosen by how guesses have done so far, and
made afterwards. Since guesses that are not made teach nothing, what the guesser expects counts in every
`TRUSTING_STEPS`th step.
"""

from __future__ import annotations

import itertools
import operator
import time
from collections.abc import Mapping

import numpy as np

from wrinklefree_inference.native.scheduler import Scheduler
from wrinklefree_inference.native.sequence import Sequence, StepPlan
from wrinklefree_inference.native.speculation.guesser import MAX_GUESSES, Guesser
from wrinklefree_inference.native.speculation.lengths import lengths_of
from wrinklefree_inference.native.speculation.record import NOTHING, Guess
from wrinklefree_inference.native.speculation.step_costs import StepCosts

TRUSTING_STEPS = 64
MAX_STREAMS = 16
"""Of more, the products of a step fill the processor, and choosing would take longer than it brings."""

Confidences = Mapping[Sequence, tuple[float, ...]]


class Speculator:
    """Chooses the guesses of one core's steps."""

    def __init__(self, guesser: Guesser) -> None:
        self._guesser = guesser
        self._step_costs, self._guess_costs = StepCosts(), StepCosts(slope=1.0)
        self._step_tokens = 0  # of the step that runs; 0: what it costs says nothing
        self._guess_s = 0.0  # of that, for guesses that are not free
        self._num_choices = 0

    def begin(self, plan: StepPlan, scheduler: Scheduler) -> int:
        """Give the sequences of a step their guesses, and those that are computed their pages.

        Returns:
            Guesses that are to be computed.
        """
        self._step_tokens, self._guess_s = 0, 0.0
        for sequence, _ in plan:
            sequence.guesses.begin()
        if len(plan) > MAX_STREAMS or not all(_is_stream(sequence) for sequence, _ in plan):
            return 0
        wanted = {sequence: _most_of(sequence) for sequence, _ in plan}
        room = scheduler.queue.max_batch_tokens - len(plan)
        expectation = self._guesser.expectation
        if expectation is None:
            offers = self._guesser.guess(wanted)
            lengths = self._lengths({s: offers.get(s, NOTHING).confidence for s in wanted}, room)
        else:
            lengths = self._lengths({s: (expectation,) * num for s, num in wanted.items()}, room)
            offers = self._costly_guesses(lengths)
        num_computed = 0
        for sequence, offer in offers.items():
            num = scheduler.room_for_guesses(sequence, min(lengths[sequence], len(offer.tokens)))
            sequence.guesses.begin(offer, num)
            num_computed += num
        self._step_tokens = len(plan) + num_computed
        return num_computed

    def forget(self, sequence: Sequence) -> None:
        """A sequence has ended."""
        self._guesser.forget(sequence)

    def end(self, step_s: float) -> None:
        """The step is over and has taken so long, guesses included."""
        if self._step_tokens:
            self._step_costs.note(self._step_tokens, step_s - self._guess_s)

    def _lengths(self, confidences: Confidences, room: int) -> dict[Sequence, int]:
        """How many guesses are computed of each."""
        self._num_choices += 1
        is_trusting = self._guesser.expectation is not None and self._num_choices % TRUSTING_STEPS == 0
        chances = [
            list(itertools.accumulate(confidence, operator.mul))
            if is_trusting
            else sequence.guesses.chances(confidence)
            for sequence, confidence in confidences.items()
        ]
        most = min(room, sum(map(len, chances)))
        lengths = (
            lengths_of(chances, self._seconds(len(confidences), most)) if most > 0 else [0] * len(chances)
        )
        return dict(zip(confidences, lengths, strict=True))

    def _seconds(self, num_streams: int, most: int) -> list[float]:
        """Of steps with 0 to `most` guesses, with making these."""
        numbers = np.arange(most + 1)
        seconds = self._step_costs.seconds(num_streams + numbers)
        if self._guess_costs.is_known:
            seconds[1:] += self._guess_costs.seconds(numbers[1:])
        costs: list[float] = seconds.tolist()
        return costs

    def _costly_guesses(self, lengths: Mapping[Sequence, int]) -> Mapping[Sequence, Guess]:
        start_s = time.perf_counter()
        offers = self._guesser.guess(lengths)
        self._guess_s = time.perf_counter() - start_s
        if made := sum(len(offer.tokens) for offer in offers.values()):
            self._guess_costs.note(made, self._guess_s)
        return offers


def _is_stream(sequence: Sequence) -> bool:
    """Whether all but the last token are computed and the next one is drawn."""
    return sequence.is_drawn_after(1)


def _most_of(sequence: Sequence) -> int:
    """Tokens that may be guessed: the step draws one more."""
    return min(MAX_GUESSES, sequence.request.max_answer_tokens - sequence.num_generated - 1)
