"""Whose turn it is to run, and who gives back for it: clients have equal shares of what runs together.

A client that runs nothing gets a place as soon as it asks, also where another one has taken all of them:
whoever runs at least two more than the one whose turn it is gives back its youngest. One more does not count,
or two clients would push each other out for ever.
"""

from __future__ import annotations

from collections import Counter

from wrinklefree_inference.native.sequence import Sequence


def in_turn(running: list[Sequence], preempted: list[Sequence], heads: list[Sequence]) -> list[Sequence]:
    """The next request of each client, the client that runs least first.

    Args:
        preempted: Oldest first; they go before the waiting ones of their client.
        heads: Each client's next waiting request, in the order of the turns.
    """
    next_of: dict[str, Sequence] = {}
    for sequence in (*preempted, *heads):
        next_of.setdefault(sequence.request.client, sequence)
    counts = _counts(running)
    return sorted(next_of.values(), key=lambda sequence: counts[sequence.request.client])


def giver_to(candidate: Sequence, running: list[Sequence]) -> Sequence | None:
    """Who gives back its place and pages; None if nobody runs too much."""
    counts = _counts(running)
    if max(counts.values(), default=0) <= counts[candidate.request.client] + 1:
        return None
    return youngest_of_largest(running)


def youngest_of_largest(running: list[Sequence]) -> Sequence:
    """The youngest sequence of the client that runs most."""
    counts = _counts(running)
    return max(running, key=lambda sequence: (counts[sequence.request.client], sequence.arrival))


def _counts(running: list[Sequence]) -> Counter[str]:
    return Counter(sequence.request.client for sequence in running)
