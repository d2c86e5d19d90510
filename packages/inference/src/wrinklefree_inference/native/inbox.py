"""The one queue between the worker's thread, which makes deltas, and the task that reads them.

The worker appends each delta to the inbox of its reader and wakes the event loop once per step. A reader has
one inbox, whether it reads one answer or the `n` answers of an HTTP request, and takes out what is there, a
bounded number at a time, so that a reader that comes back late does not hold up the loop. An answer of which
too much is unread is `Slot.is_full`: the scheduler lets it rest. Tokens are counted, not events: an event
has all that a step added, up to 17 tokens where they were guessed, or a piece of an echoed prompt.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque

from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.native.request import Delta

InboxEvent = Delta | EngineError
"""What was added to an answer, or the error that ends it."""

MAX_TAKEN_TOKENS = 64
"""Of one `take`, unless the first event has more: with 20 alternatives each they are about 5 ms of JSON."""


def _num_tokens(event: InboxEvent) -> int:
    """What an event counts as; one that holds text back, or an error, counts as a token."""
    return 1 if isinstance(event, EngineError) else max(1, len(event.token_ids))


class Inbox:
    """Events of numbered answers on their way to one reader."""

    def __init__(self) -> None:
        self._events: deque[tuple[int, InboxEvent]] = deque()
        # By number; only the loop's thread changes them.
        self.num_taken: Counter[int] = Counter()
        self.num_taken_tokens: Counter[int] = Counter()
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

    @property
    def has_more(self) -> bool:
        """Whether `take` would not wait."""
        return bool(self._events)

    async def take(self) -> list[tuple[int, InboxEvent]]:
        """What is there, at most `MAX_TAKEN_TOKENS`; waits for the first. Empty once the inbox is closed."""
        while not self._events and not self._is_closed:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader  # what was put meanwhile is followed by a wake that is still to come
        if self._is_closed:
            return []
        taken: list[tuple[int, InboxEvent]] = []
        room = MAX_TAKEN_TOKENS
        while self._events and (not taken or _num_tokens(self._events[0][1]) <= room):
            number, event = self._events.popleft()
            taken.append((number, event))
            room -= _num_tokens(event)
            self.num_taken[number] += 1
            self.num_taken_tokens[number] += _num_tokens(event)
        return taken


class Slot:
    """One answer's place in an inbox.

    Args:
        max_unread: Tokens that may wait for the reader; once there are as many, half of them must have gone.
            One event may have more, so those of two steps may wait in any case.
    """

    def __init__(self, inbox: Inbox, number: int, max_unread: int = 128) -> None:
        self.inbox, self.number = inbox, number
        self._max_unread = max_unread
        self._num_put = self._num_put_tokens = 0
        self._is_full = False

    def put(self, event: InboxEvent) -> None:
        """Add an event; from any thread."""
        self._num_put += 1
        self._num_put_tokens += _num_tokens(event)
        self.inbox.put(self.number, event)

    def is_full(self) -> bool:
        """Whether the reader is too far behind; in the thread that puts."""
        num_unread = self._num_put - self.inbox.num_taken[self.number]
        num_tokens = self._num_put_tokens - self.inbox.num_taken_tokens[self.number]
        most = self._max_unread // 2 if self._is_full else self._max_unread
        self._is_full = num_unread > 1 and num_tokens >= most  # the latest one is on its way
        return self._is_full
