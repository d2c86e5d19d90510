"""Guessers and costs for tests of speculation with the little model of packages/inference/tests/native."""

from __future__ import annotations

from wrinklefree_inference.native.speculation.record import Guess
from wrinklefree_inference.options import QueueOptions

LIMITS = QueueOptions(8, 100, 64, 16)


class FixedCosts:
    """In the place of `StepCosts`: what a step costs, whatever the clock says."""

    is_known = True

    def __init__(self, seconds):
        self.seconds = seconds

    def note(self, size, seconds):
        pass


def nearly_flat(sizes):
    return 1 + 0.001 * sizes


def with_costs(bench, seconds=nearly_flat, making=lambda sizes: 0.0 * sizes):
    bench.core._speculator._step_costs = FixedCosts(seconds)
    bench.core._speculator._guess_costs = FixedCosts(making)
    return bench


class Oracle:
    """Knows answers by the names of their requests, and is right `run` times before it is wrong once."""

    def __init__(self, answers, run, expectation=None):
        self.answers, self.run, self.expectation = answers, run, expectation
        self.forgotten = []

    def guess(self, wanted):
        return {sequence: self._guess(sequence, most) for sequence, most in wanted.items() if most}

    def forget(self, sequence):
        self.forgotten.append(sequence)

    def _guess(self, sequence, most):
        answer = self.answers.get(sequence.request.id, [])[sequence.num_generated :][:most]
        places = range(sequence.num_generated, sequence.num_generated + len(answer))
        tokens = [
            token if (place + 1) % (self.run + 1) else (token + 1) % 64
            for place, token in zip(places, answer, strict=True)
        ]
        return Guess(tuple(tokens), (0.9,) * len(tokens))


def prompt_of(length, kind=0):
    return [9 + (kind * 17 + i * i) % 50 for i in range(length)]


def drawn_by(bench, requests):
    """All that was told of the answers to some requests, and the tokens that were drawn, by name."""
    sequences = [bench.add(**request) for request in requests]
    bench.run()
    told = [
        (
            bench.tokens[one],
            bench.texts[one],
            bench.entries[one],
            bench.last[one].finish_reason,
            bench.last[one].completion_tokens,
        )
        for one in sequences
    ]
    return told, {one.request.id: one.answer.tolist() for one in sequences}
