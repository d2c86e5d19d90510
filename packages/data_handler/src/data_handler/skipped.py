"""How many bad records were passed over, and where the first were; part of every position."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

SHOWN_PLACES = 5


class Skipped(NamedTuple):
    """A record counts once in every epoch; its place is named once.

    Attributes:
        first: the first places, `SHOWN_PLACES` at most, e.g. `wiki.jsonl, line 3`.
    """

    records: int = 0
    first: tuple[str, ...] = ()

    def and_at(self, where: str) -> Skipped:
        """With one record more."""
        is_new = len(self.first) < SHOWN_PLACES and where not in self.first
        return Skipped(self.records + 1, (*self.first, where) if is_new else self.first)

    def to_json(self) -> list[Any]:
        return [self.records, list(self.first)]

    @classmethod
    def from_json(cls, value: Any) -> Skipped:
        records, first = value
        return cls(records, tuple(first))


NO_RECORDS = Skipped()


def summed(parts: Iterable[Skipped]) -> Skipped:
    """Of several streams of one source (workers, ranks)."""
    parts = list(parts)
    places = dict.fromkeys(place for part in parts for place in part.first)
    return Skipped(sum(part.records for part in parts), tuple(places)[:SHOWN_PLACES])
