"""Whether the server takes requests, and how many it is answering."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from wrinklefree_inference.http.errors import ApiError


class Lifecycle:
    """Shared by the guard (which counts) and the shutdown (which waits)."""

    def __init__(self, max_inflight: int) -> None:
        self.is_draining = False
        self.inflight = 0
        self._max_inflight = max_inflight

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Count one request.

        Raises:
            ApiError: 503 while draining, 429 if there are too many.
        """
        if self.is_draining:
            headers = {"Retry-After": "10", "Connection": "close"}
            raise ApiError(503, "the server is shutting down", code="shutting_down", headers=headers)
        if self.inflight >= self._max_inflight:
            reason = f"{self.inflight} requests are open already: try again in 1 s"
            raise ApiError(429, reason, code="too_many_requests", headers={"Retry-After": "1"})
        self.inflight += 1
        try:
            yield
        finally:
            self.inflight -= 1

    async def wait_until_idle(self, timeout_s: float) -> bool:
        """Wait for the last answer; False if it did not end in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.inflight:
                    await asyncio.sleep(0.02)
        except TimeoutError:
            return False
        return True
