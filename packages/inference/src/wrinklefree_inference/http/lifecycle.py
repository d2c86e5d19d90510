"""Whether the server takes requests, how many it is answering, and what they leave behind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from wrinklefree_inference.http.errors import ApiError
from wrinklefree_inference.http.memory import LargeBodies
from wrinklefree_inference.http.shares import Shares


class Lifecycle:
    """Shared by the guard (which counts) and the shutdown (which waits)."""

    def __init__(self, max_inflight: int) -> None:
        self.is_draining = False
        self.large_bodies = LargeBodies()
        self._shares = Shares(max_inflight)

    @property
    def inflight(self) -> int:
        """Requests being read, waiting or running."""
        return self._shares.num_held

    @contextmanager
    def answering(self, client: str = "") -> Iterator[None]:
        """Count one request of a client.

        Raises:
            ApiError: 503 while draining, 429 if there are too many and the client has its share of them.
        """
        if self.is_draining:
            headers = {"Retry-After": "10", "Connection": "close"}
            raise ApiError(503, "the server is shutting down", code="shutting_down", headers=headers)
        if not self._shares.has_room_for(client):
            reason = f"{self.inflight} requests are open already: try again in 1 s"
            raise ApiError(429, reason, code="too_many_requests", headers={"Retry-After": "1"})
        with self._shares.held_by(client):
            yield

    async def wait_until_idle(self, timeout_s: float) -> bool:
        """Wait for the last answer; False if it did not end in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.inflight:
                    await asyncio.sleep(0.02)
        except TimeoutError:
            return False
        return True
