"""The one queue between the worker's thread, which makes deltas, and the task that reads them.

The worker appends each delta to the inbox of its reader and wakes the event loop once per step. A reader has
one inbox, whether it reads one answer or the `n` answers of an HTTP request, and takes out all that is there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Self

from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.native.request import Delta

Event = Delta | EngineError
"""What was added to an answer, or the error that ends it."""


class Inbox:
    """Events of numbered answers on their way to one reader."""

    def __init__(self) -> None:
        self._events: deque[tuple[int, Event]] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._is_closed = False

    def put(self, number: int, event: Event) -> None:
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

    async def take_all(self) -> list[tuple[int, Event]]:
        """Everything that is there; waits for the first. Empty once the inbox is closed."""
        await self._arrival()
        return [] if self._is_closed else [self._events.popleft() for _ in range(len(self._events))]

    async def take(self) -> tuple[int, Event] | None:
        """The next event; None once the inbox is closed."""
        await self._arrival()
        return None if self._is_closed else self._events.popleft()

    async def _arrival(self) -> None:
        while not self._events and not self._is_closed:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader  # what was put meanwhile is followed by a wake that is still to come


@dataclass(frozen=True)
class Slot:
    """One answer's place in an inbox."""

    inbox: Inbox
    number: int

    def put(self, event: Event) -> None:
        """Add an event; from any thread."""
        self.inbox.put(self.number, event)


class TokenStream(AsyncIterator[Delta]):
    """Iterator over the deltas of one request that has an inbox of its own.

    The request is cancelled when the stream is closed or dropped before its end, and when the task that
    waits for the next delta is cancelled (so a timeout around `anext` gives the answer up).

    Args:
        cancel: Drops the request; nothing happens if it has ended.
    """

    def __init__(self, inbox: Inbox, cancel: Callable[[], None]) -> None:
        self._inbox = inbox
        self._cancel = cancel
        self._is_ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        if self._is_ended:
            raise StopAsyncIteration
        try:
            taken = await self._inbox.take()
        except asyncio.CancelledError:
            await self.aclose()
            raise
        if taken is None:
            raise StopAsyncIteration
        event = taken[1]
        self._is_ended = isinstance(event, EngineError) or event.finish_reason is not None
        if isinstance(event, EngineError):
            raise event
        return event

    async def aclose(self) -> None:
        """Cancel the request if it has not ended."""
        if not self._is_ended:
            self._is_ended = True
            self._cancel()
            self._inbox.close()

    def __del__(self) -> None:
        if not self._is_ended:
            self._cancel()
