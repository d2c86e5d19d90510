"""Bodies of other servers come as they are: a few compressed kilobytes may become gigabytes.

RFC 9110, 12.5.3: who asks for `identity` alone gets nothing compressed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx

UNCOMPRESSED = {"Accept-Encoding": "identity"}
"""Header of every request to another server."""


def encoding_of(answer: httpx.Response) -> str | None:
    """What the body is compressed with, although nobody asked for it."""
    encoding = answer.headers.get("content-encoding", "identity").strip().lower()
    return None if encoding in ("", "identity") else encoding
