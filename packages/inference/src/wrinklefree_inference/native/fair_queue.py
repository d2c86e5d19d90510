"""Requests that wait: clients take turns, each client's own requests keep their order."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator

from wrinklefree_inference.native.sequence import Sequence


class FairQueue:
    """First in, first out per client; round robin between clients."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, deque[Sequence]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Sequence]:
        for queue in self._clients.values():
            yield from queue

    def append(self, sequence: Sequence) -> None:
        """Add a request behind its client's others."""
        self._clients.setdefault(sequence.request.client, deque()).append(sequence)
        self._length += 1

    def heads(self) -> list[Sequence]:
        """Each client's next request, the client whose turn it is first."""
        return [queue[0] for queue in self._clients.values()]

    def pop(self, sequence: Sequence) -> None:
        """Take a client's next request; that client's turn comes last now."""
        client = sequence.request.client
        head = self._clients[client].popleft()
        assert head is sequence
        self._length -= 1
        self._clients.move_to_end(client)
        self._drop_if_empty(client)

    def remove(self, sequence: Sequence) -> None:
        """Take out a request, wherever it stands."""
        client = sequence.request.client
        self._clients[client].remove(sequence)
        self._length -= 1
        self._drop_if_empty(client)

    def _drop_if_empty(self, client: str) -> None:
        if not self._clients[client]:
            del self._clients[client]
