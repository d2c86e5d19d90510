"""How much one client may ask for, and reading a body within that."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.types import Message, Receive, Scope

from wrinklefree_inference.http.errors import ApiError, ClientLeft

_LINGER_S = 2.0
_LINGER_BYTES = 64 << 20


@dataclass(frozen=True)
class Limits:
    """Attributes:
    body_bytes: Longest request body, whether its length is announced or not.
    body_timeout_s: Longest time to send it.
    output_tokens: Longest answer; None leaves it to the context.
    choices: Most answers (`n` times the number of prompts) of one request.
    inflight: Most requests between their first and last byte, running, waiting and being read.
    """

    body_bytes: int = 4 << 20
    body_timeout_s: float = 30.0
    output_tokens: int | None = None
    choices: int = 16
    inflight: int = 256

    def __post_init__(self) -> None:
        for name in ("body_bytes", "body_timeout_s", "choices", "inflight"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")


async def read_body(scope: Scope, receive: Receive, limits: Limits) -> bytes:
    """The whole body.

    Raises:
        ApiError: 413 or 408. A client that is still sending an overlong body is heard out for 2 s and 64 MiB,
            because closing on it would lose the answer on its way.
        ClientLeft: It hung up.
    """
    announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    pieces: list[bytes] = []
    num_bytes = int(announced) if announced.isdigit() else 0
    if num_bytes <= limits.body_bytes:
        num_bytes = 0
        try:
            async with asyncio.timeout(limits.body_timeout_s):
                while num_bytes <= limits.body_bytes:
                    message = await _next(receive)
                    pieces.append(message.get("body", b""))
                    num_bytes += len(pieces[-1])
                    if not message.get("more_body", False):
                        break
        except TimeoutError as error:
            reason = f"the body took more than {limits.body_timeout_s:g} s to arrive"
            raise ApiError(408, reason, code="timeout", headers={"Connection": "close"}) from error
    if num_bytes > limits.body_bytes:
        pieces.clear()
        await _hear_out(receive)
        raise ApiError(
            413,
            f"the body is longer than {limits.body_bytes} bytes",
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
