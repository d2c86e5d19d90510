"""Work that takes its time, done in threads away from the event loop; clients take turns at it.

Each client has a tag, which grows by one with every turn that it takes; next is the client with the lowest,
and one that comes anew begins where the others are (start-time fair queueing with all costs equal). So a
client waits for one turn of each other one, however many of theirs wait, and nobody is left out by those who
come and go. Within a client it is first come, first served.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from wrinklefree_inference.http.errors import ApiError

T = TypeVar("T")

LONGEST_WAIT_S = 10.0
"""For a turn; whoever waits longer has given too much to do at once."""


class Turns:
    """Threads for one kind of work.

    Args:
        what: The work, for whoever waited for it in vain: `rendering of chat templates`.
        at_once: How many threads.
    """

    def __init__(self, what: str, at_once: int = 1, longest_wait_s: float = LONGEST_WAIT_S) -> None:
        self._what, self._longest_wait_s = what, longest_wait_s
        self._pool = ThreadPoolExecutor(at_once, what)
        self._at_once = self._num_free = at_once
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._tags: dict[str, int] = {}
        self._now = 0

    async def run(self, client: str, work: Callable[[], T]) -> T:
        """The result of `work`; if the caller is cancelled the turn lasts until its thread is done.

        Raises:
            ApiError: 429 if the client's turn did not come in time.
            Exception: What `work` raises.
        """
        await self._turn_of(client)
        working = asyncio.get_running_loop().run_in_executor(self._pool, work)
        working.add_done_callback(self._pass_on)
        return await asyncio.shield(working)

    async def _turn_of(self, client: str) -> None:
        if self._num_free:
            self._num_free -= 1
            self._count(client)
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(turn)
        try:
            async with asyncio.timeout(self._longest_wait_s):
                await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            self._forgo(client, turn)
            if isinstance(error, TimeoutError):
                raise self._too_late() from error
            raise

    def _count(self, client: str) -> None:
        """Note a turn of a client, and forget those that have had no more turns than a new one."""
        tag = max(self._tags.get(client, 0), self._now)
        self._now, self._tags[client] = tag, tag + 1
        self._tags = {name: tag for name, tag in self._tags.items() if tag > self._now}

    def _pass_on(self, done: asyncio.Future[T] | None = None) -> None:
        """Give the turn to the next client, or put it back."""
        if done is not None and not done.cancelled():
            done.exception()  # seen, if the caller has left
        while self._waiting:
            client = min(self._waiting, key=lambda name: self._tags.get(name, self._now))
            turn = self._waiting[client][0]
            self._drop(client, turn)
            if not turn.cancelled():
                self._count(client)
                turn.set_result(None)
                return
        self._num_free += 1
        if self._num_free == self._at_once:  # all begin anew
            self._tags.clear()

    def _forgo(self, client: str, turn: asyncio.Future[None]) -> None:
        if turn.done() and not turn.cancelled():  # it came at the last moment
            self._pass_on()
        elif turn in self._waiting.get(client, ()):
            self._drop(client, turn)

    def _drop(self, client: str, turn: asyncio.Future[None]) -> None:
        self._waiting[client].remove(turn)
        if not self._waiting[client]:
            del self._waiting[client]

    def _too_late(self) -> ApiError:
        reason = (
            f"this request has waited {self._longest_wait_s:g} s for the {self._what} of earlier ones: "
            "send fewer at a time"
        )
        return ApiError(429, reason, code="too_many_requests", headers={"Retry-After": "2"})
