"""Places that clients share: nobody's requests keep all others out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Shares:
    """Counts who holds how many of `places`.

    While some are free anybody takes them. When all are taken, a client that has less than its share (places
    divided by clients) is let in nevertheless: k clients hold at most 1 + 1/2 + ... + 1/k times `places`.
    """

    def __init__(self, places: int) -> None:
        self.places = places
        self._held: Counter[str] = Counter()

    @property
    def num_held(self) -> int:
        """Of all clients."""
        return self._held.total()

    def has_room_for(self, client: str) -> bool:
        """Whether it may take one more."""
        if self.num_held < self.places:
            return True
        return self._held[client] < max(1, self.places // len({*self._held, client}))

    @contextmanager
    def held_by(self, client: str) -> Iterator[None]:
        """Hold one place."""
        self._held[client] += 1
        try:
            yield
        finally:
            self._held[client] -= 1
            if not self._held[client]:
                del self._held[client]
