"""What holds for every other server that is asked: its URL, its key, and that nothing comes compressed.

A few compressed kilobytes may become gigabytes. RFC 9110, 12.5.3: who asks for `identity` alone gets bodies
as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from wf_formats.errors import RequestError

if TYPE_CHECKING:
    import httpx

UNCOMPRESSED = {"Accept-Encoding": "identity"}
"""Header of every request."""


def server_of(url: str) -> str:
    """The URL of a server, given with or without `/v1`.

    Raises:
        RequestError: That is none.
    """
    import httpx  # a command that asks no other server does without

    try:
        parts = urlsplit(url)
        httpx.URL(url).host.encode("idna")  # what looks the name up does the same
        is_whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (ValueError, httpx.InvalidURL) as error:
        raise RequestError(f"{url!r} is not a server's URL: its host or port is none ({error})") from error
    if not is_whole:
        raise RequestError(
            f"{url!r} is not a server's URL: it must begin with http:// or https:// and name a host, "
            "like http://127.0.0.1:8080"
        )
    return url.rstrip("/").removesuffix("/v1")


def bearer(key: str) -> dict[str, str]:
    """The header with a key.

    Raises:
        RequestError: No header can carry it.
    """
    if not key.isascii() or not key.isprintable():
        raise RequestError("the API key must be printable ASCII")  # without the key: it would end in a log
    return {"Authorization": f"Bearer {key}"}


def encoding_of(answer: httpx.Response) -> str | None:
    """What the body is compressed with, although nobody asked for it."""
    encoding = answer.headers.get("content-encoding", "identity").strip().lower()
    return None if encoding in ("", "identity") else encoding
