"""A budget split between claimants."""

from __future__ import annotations


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
