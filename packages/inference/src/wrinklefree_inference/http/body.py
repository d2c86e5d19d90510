"""Reading a request's body, as much of it and as long as the options allow."""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive, Scope

from wrinklefree_inference.http.errors import ApiError, ClientLeft
from wrinklefree_inference.options import HttpOptions

_LINGER_S = 2.0
_LINGER_BYTES = 64 << 20


async def read_body(scope: Scope, receive: Receive, http: HttpOptions) -> bytes:
    """The whole body.

    Raises:
        ApiError: 413 or 408. A client that is still sending an overlong body is heard out for 2 s and 64 MiB,
            because closing on it would lose the answer on its way.
        ClientLeft: It hung up.
    """
    announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    pieces: list[bytes] = []
    num_bytes = int(announced) if announced.isdigit() else 0
    if num_bytes <= http.body_bytes:
        num_bytes = 0
        try:
            async with asyncio.timeout(http.body_timeout_s):
                while num_bytes <= http.body_bytes:
                    message = await _next(receive)
                    pieces.append(message.get("body", b""))
                    num_bytes += len(pieces[-1])
                    if not message.get("more_body", False):
                        break
        except TimeoutError as error:
            reason = f"the body took more than {http.body_timeout_s:g} s to arrive"
            raise ApiError(408, reason, code="timeout", headers={"Connection": "close"}) from error
    if num_bytes > http.body_bytes:
        pieces.clear()
        if (b"expect", b"100-continue") not in scope["headers"]:  # else it sends only when told to
            await _hear_out(receive)
        raise ApiError(
            413,
            f"the body is longer than {http.body_bytes} bytes",
            code="request_too_large",
            headers={"Connection": "close"},
        )
    return b"".join(pieces)


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives `body` once, then what comes after it (the end of the connection)."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return first.pop() if first else await receive()

    return replayed


async def _next(receive: Receive) -> Message:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientLeft
    return message


async def _hear_out(receive: Receive) -> None:
    heard = 0
    try:
        async with asyncio.timeout(_LINGER_S):
            while heard < _LINGER_BYTES:
                message = await _next(receive)
                heard += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return
