"""The reading end of an answer in asyncio."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Self

from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.native.request import Delta


class Channel:
    """Deltas on their way to one reader; lives in the event loop's thread."""

    def __init__(self) -> None:
        self._events: deque[Delta | EngineError] = deque()
        self._reader: asyncio.Future[None] | None = None
        self.is_ended = False

    def push(self, event: Delta | EngineError) -> None:
        """Add a delta, or the error that ends the answer."""
        self._events.append(event)
        self._wake()

    def close(self) -> None:
        """Drop what has not been read."""
        self._events.clear()
        self.is_ended = True
        self._wake()

    async def get(self) -> Delta | None:
        """The next delta; None at the end."""
        while not self._events and not self.is_ended:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        if not self._events:
            return None
        event = self._events.popleft()
        if isinstance(event, EngineError):
            self.close()
            raise event
        self.is_ended = event.finish_reason is not None
        return event

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class TokenStream(AsyncIterator[Delta]):
    """Iterator over the deltas of one request.

    The request is cancelled when the stream is closed or dropped before its end, and when the task that
    waits for the next delta is cancelled (so a timeout around `anext` gives the answer up).
    """

    def __init__(self, channel: Channel, cancel: Callable[[], None]) -> None:
        self._channel = channel
        self._cancel = cancel

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        try:
            delta = await self._channel.get()
        except asyncio.CancelledError:
            self._abandon()
            raise
        if delta is None:
            raise StopAsyncIteration
        return delta

    async def aclose(self) -> None:
        """Cancel the request if it has not ended."""
        self._abandon()

    def __del__(self) -> None:
        if not self._channel.is_ended:
            self._cancel()

    def _abandon(self) -> None:
        if not self._channel.is_ended:
            self._cancel()
            self._channel.close()
