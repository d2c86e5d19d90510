"""Server-sent events: framing, and a response that stops its source as soon as the client leaves.

Starlette's own streaming response trusts the server either to raise in `send` or to be polled, depending on
a version number in the scope; here it is always polled, so that a request that still waits in the queue,
with nothing to send, is cancelled too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from wrinklefree_inference.http.errors import ClientLeft
from wrinklefree_inference.http.json_pieces import encoded
from wrinklefree_inference.http.record import record_of

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": still working\n\n"  # a comment: clients skip it, nobody between takes a wait for a dead line


def frame(data: Mapping[str, Any]) -> bytes:
    """One event. JSON has no line breaks of its own, so the data is one line."""
    return b"data: %b\n\n" % encoded(data)


async def unless_client_leaves(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the connection closes.

    Raises:
        ClientLeft: It did.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeft
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


_STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class EventStream(Response):
    """Sends the frames of `source`, which is closed in any case.

    Args:
        source: Frames, several in one go where they come together.
        release: Called at the end too: a generator that was never begun has no `finally` to run.
        headers, media_type: Of another body in pieces.
    """

    def __init__(
        self,
        source: AsyncGenerator[Sequence[bytes], None],
        release: Callable[[], Awaitable[None]],
        status: int = 200,
        headers: Mapping[str, str] = _STREAM_HEADERS,
        media_type: str = "text/event-stream",
    ) -> None:
        super().__init__(status_code=status, headers=headers, media_type=media_type)
        del self.headers["content-length"]
        self._source, self._release = source, release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; see the class."""
        try:
            await unless_client_leaves(receive, self._send_all(send))
        except ClientLeft:
            record_of(scope).outcome = "client_left"
        finally:
            try:
                await self._source.aclose()
            finally:
                await self._release()

    async def _send_all(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        await send(start)
        async for frames in self._source:
            await send({"type": "http.response.body", "body": b"".join(frames), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
