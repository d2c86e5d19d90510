"""JSON in pieces, and a response that sends it so: 16 answers with 20 alternatives a token may be 100 MB.

What is large is encoded when it comes (`encoded`), a token at a time, and put together at the end; neither
holds up the event loop for long.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_SENT_BYTES = 1 << 16


def encoded(value: Any) -> bytes:
    """The JSON of a small value, on one line."""
    return _ENCODER.encode(value).encode("utf-8", "replace")


@dataclass(frozen=True)
class Items:
    """A list whose items are JSON already."""

    encoded: Sequence[bytes]


@dataclass(frozen=True)
class Encoded:
    """A value that is JSON already."""

    json: bytes


def pieces(value: Any) -> Iterator[bytes]:
    """The JSON of dicts and lists of dicts, in which `Items` and `Encoded` may be; else in one go."""
    if isinstance(value, dict):
        for i, (name, item) in enumerate(value.items()):
            yield (b"," if i else b"{") + encoded(name) + b":"
            yield from pieces(item)
        yield b"}" if value else b"{}"
    elif isinstance(value, Encoded):
        yield value.json
    elif isinstance(value, Items):
        yield b"["
        for i, item in enumerate(value.encoded):
            yield b"," + item if i else item
        yield b"]"
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for i, item in enumerate(value):
            yield b"," if i else b"["
            yield from pieces(item)
        yield b"]"
    else:
        yield encoded(value)


class PiecewiseResponse(Response):
    """Sends JSON in pieces of 64 KB; between two of them others have their turn."""

    media_type = "application/json"

    def __init__(self, value: Any) -> None:
        super().__init__()
        self._pieces = list(pieces(value))
        self.headers["content-length"] = str(sum(map(len, self._pieces)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for body in _joined(self._pieces):
            await send({"type": "http.response.body", "body": body, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _joined(parts: Sequence[bytes]) -> Iterator[bytes]:
    """The same in pieces of `_SENT_BYTES` or a little more."""
    batch: list[bytes] = []
    num_bytes = 0
    for part in parts:
        batch.append(part)
        num_bytes += len(part)
        if num_bytes >= _SENT_BYTES:
            yield b"".join(batch)
            batch, num_bytes = [], 0
    yield b"".join(batch)
