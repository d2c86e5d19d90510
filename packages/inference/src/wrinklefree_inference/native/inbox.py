"""The one queue between the worker's thread, which makes deltas, and the task that reads them.

The worker appends each delta to the inbox of its reader and wakes the event loop once per step. A reader has
one inbox, whether it reads one answer or the `n` answers of an HTTP request, and takes out all that is there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.native.request import Delta

InboxEvent = Delta | EngineError
"""What was added to an answer, or the error that ends it."""


class Inbox:
    """Events of numbered answers on their way to one reader."""

    def __init__(self) -> None:
        self._events: deque[tuple[int, InboxEvent]] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._is_closed = False

    def put(self, number: int, event: InboxEvent) -> None:
        """Add an event; from any thread. The loop's thread calls `wake` afterwards."""
        self._events.append((number, event))

    def wake(self) -> None:
        """Let the reader look; in the loop's thread."""
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def close(self) -> None:
        """Nobody reads any more: what has not been read is dropped."""
        self._is_closed = True
        self._events.clear()
        self.wake()

    async def take_all(self) -> list[tuple[int, InboxEvent]]:
        """Everything that is there; waits for the first. Empty once the inbox is closed."""
        while not self._events and not self._is_closed:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader  # what was put meanwhile is followed by a wake that is still to come
        return [] if self._is_closed else [self._events.popleft() for _ in range(len(self._events))]


@dataclass(frozen=True)
class Slot:
    """One answer's place in an inbox."""

    inbox: Inbox
    number: int

    def put(self, event: InboxEvent) -> None:
        """Add an event; from any thread."""
        self.inbox.put(self.number, event)
