"""Whether the server takes requests, how many it is answering, and what they leave behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from wrinklefree_inference.http.errors import ApiError
from wrinklefree_inference.http.memory import LargeBodies
from wrinklefree_inference.http.shares import Shares


class Lifecycle:
    """Shared by the guard (which counts) and the shutdown (which waits)."""

    def __init__(self, max_inflight: int) -> None:
        self.is_draining = False
        self.large_bodies = LargeBodies()
        self._shares = Shares(max_inflight)
        self._limits: set[asyncio.Timeout] = set()

    @property
    def inflight(self) -> int:
        """Requests being read, waiting or running."""
        return self._shares.num_held

    @asynccontextmanager
    async def answering(self, client: str = "") -> AsyncIterator[None]:
        """Count one request of a client, whatever is done for it.

        Raises:
            ApiError: 503 while draining and once it is cut off, 429 if there are too many and the client has
                its share of them.
        """
        if self.is_draining:
            raise _shutting_down()
        if not self._shares.has_room_for(client):
            reason = f"{self.inflight} requests are open already: try again in 1 s"
            raise ApiError(429, reason, code="too_many_requests", headers={"Retry-After": "1"})
        with self._shares.held_by(client):
            limit = asyncio.timeout(None)
            try:
                async with limit:
                    self._limits.add(limit)
                    try:
                        yield
                    finally:
                        self._limits.discard(limit)
            except TimeoutError as error:
                if limit.expired():
                    raise _shutting_down() from error
                raise

    def cut_off(self) -> None:
        """End what is being answered, wherever it is."""
        now_s = asyncio.get_running_loop().time()
        for limit in self._limits:
            limit.reschedule(now_s)

    async def wait_until_idle(self, timeout_s: float) -> bool:
        """Wait for the last answer; False if it did not end in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.inflight:
                    await asyncio.sleep(0.02)
        except TimeoutError:
            return False
        return True


def _shutting_down() -> ApiError:
    headers = {"Retry-After": "10", "Connection": "close"}
    return ApiError(503, "the server is shutting down", code="shutting_down", headers=headers)
