"""A budget split between claimants: prompts by shares, streams by turns."""

from __future__ import annotations

from wrinklefree_inference.native.sequence import Sequence, StepPlan


def fair_shares(demands: list[int], budget: int, turn: int) -> list[int]:
    """Split `budget` so that nobody gets more than asked for and the least served get most.

    A remainder that cannot be split goes to another claimant each `turn`.
    """
    shares = [0] * len(demands)
    budget = min(budget, sum(demands))
    while budget:
        hungry = [i for i, demand in enumerate(demands) if shares[i] < demand]
        portion = budget // len(hungry)
        if not portion:
            for k in range(budget):
                shares[hungry[(turn + k) % len(hungry)]] += 1
            break
        for i in hungry:
            given = min(portion, demands[i] - shares[i])
            shares[i] += given
            budget -= given
    return shares


def prompt_shares(prompts: list[Sequence], budget: int, turn: int, block_size: int) -> StepPlan:
    """Split `budget` blocks of pending tokens between clients, then by age."""
    by_client: dict[str, StepPlan] = {}
    for sequence in prompts:
        blocks = sequence.num_pending // block_size
        by_client.setdefault(sequence.request.client, []).append((sequence, blocks))
    demands = [sum(blocks for _, blocks in own) for own in by_client.values()]
    plan: StepPlan = []
    for own, share in zip(by_client.values(), fair_shares(demands, budget, turn), strict=True):
        for sequence, pending in own:
            count = min(pending, share)
            share -= count
            if count:
                plan.append((sequence, count * block_size))
    return plan


def taking_turns(streams: list[Sequence], most: int, turn: int) -> list[Sequence]:
    """All of them where they are at most `most`, else those whose turn it is."""
    if len(streams) <= most:
        return streams
    first = turn * most % len(streams)
    return (streams[first:] + streams[:first])[:most]
