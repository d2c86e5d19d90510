"""The server behind the proxy: one exchange with it, and an `ApiError` for all that goes wrong in it.

what comes back                                          the client gets
an answer, 200 to 299 or 400 to 599                      the same
no connection                                            502 upstream_unreachable
no HTTP, or the end of the connection                    502 upstream_invalid
a redirect, another status, a compressed body            502 upstream_refused
nothing, or no more, for `timeout_s`                     504 upstream_timeout
a body that ends before its end                          502 upstream_broke_off
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from http import HTTPStatus
from urllib.parse import quote

import httpx
from starlette.requests import Request

from wrinklefree_inference.http.errors import ApiError
from wrinklefree_inference.http.unknown_fields import HEADER
from wrinklefree_inference.upstreams import UNCOMPRESSED, bearer, encoding_of, server_of

_PASSED_ON = (b"content-type", b"accept")
_PASSED_BACK = ("content-type", "retry-after", "cache-control", HEADER)
_STREAM = "text/event-stream"
_STATUSES = (range(200, 300), range(400, 600))
_HEALTH_S = 5.0
_KEPT_OPEN = 64  # connections without a request; how many have one is for `HttpOptions.max_inflight` to say


class Answer:
    """An answer whose body has not been read; whoever has it closes it."""

    def __init__(self, response: httpx.Response) -> None:
        found = ((name, response.headers.get(name)) for name in _PASSED_BACK)
        self.headers = {name: value for name, value in found if value and value.isascii()}
        self.status = response.status_code
        self.is_stream = self.status == HTTPStatus.OK and self.headers.get("content-type", "").startswith(
            _STREAM
        )
        self._response = response

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes.

        Raises:
            ApiError: 502 or 504, see the module.
        """
        try:
            async for piece in self._response.aiter_raw():
                yield piece
        except httpx.TimeoutException as error:
            raise _too_slow() from error
        except httpx.RequestError as error:
            raise broken_off() from error

    async def aclose(self) -> None:
        """Give the connection back, or close it."""
        await self._response.aclose()


class Upstream:
    """The server behind.

    Args:
        url: With or without `/v1`.
        api_key: Its key; the client's own is never passed on.
        timeout_s: Longest wait for the head of an answer, and for each piece of its body.

    Raises:
        RequestError: That is no URL, or no key.
    """

    def __init__(self, url: str, api_key: str | None = None, timeout_s: float = 600.0) -> None:
        self.url = server_of(url)
        self._timeout_s = timeout_s
        self._client = httpx.AsyncClient(
            base_url=self.url,
            headers=UNCOMPRESSED | (bearer(api_key) if api_key else {}),
            timeout=httpx.Timeout(timeout_s, connect=min(10.0, timeout_s)),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=_KEPT_OPEN),
            trust_env=False,
        )

    async def send(self, request: Request, body: bytes) -> Answer:
        """Begin an exchange.

        Raises:
            ApiError: 404 for a path that leads elsewhere, else 502 or 504, see the module.
        """
        headers = {name: value for name, value in request.scope["headers"] if name in _PASSED_ON}
        path = _outgoing_path(request.url.path)
        outgoing = self._client.build_request(request.method, path, content=body or None, headers=headers)
        response = await self._head_of(outgoing)
        if reason := _refused(response):
            await response.aclose()
            raise ApiError(502, f"the server behind {reason}", code="upstream_refused")
        return Answer(response)

    async def is_healthy(self) -> bool:
        """Whether it lists its models, as far as the status tells."""
        try:
            async with asyncio.timeout(_HEALTH_S), self._client.stream("GET", "/v1/models") as response:
                return response.status_code == HTTPStatus.OK
        except (httpx.RequestError, TimeoutError):
            return False

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _head_of(self, outgoing: httpx.Request) -> httpx.Response:
        try:
            async with asyncio.timeout(self._timeout_s):  # httpx counts anew with every byte
                return await self._client.send(outgoing, stream=True)
        except (httpx.TimeoutException, TimeoutError) as error:
            raise _too_slow() from error
        except httpx.ConnectError as error:
            raise ApiError(502, "the server behind cannot be reached", code="upstream_unreachable") from error
        except httpx.RequestError as error:
            reason = "the server behind answered what is no HTTP, or hung up instead"
            raise ApiError(502, reason, code="upstream_invalid") from error


def broken_off() -> ApiError:
    """For an answer without its end."""
    return ApiError(502, "the server behind broke off its answer", code="upstream_broke_off")


def _too_slow() -> ApiError:
    return ApiError(504, "the server behind did not answer in time", code="upstream_timeout")


def _refused(response: httpx.Response) -> str | None:
    """Why an answer is not passed on."""
    status = response.status_code
    if 300 <= status < 400:
        return f"redirects ({status}), which its API does not: the proxy needs the URL that it redirects to"
    if not any(status in statuses for statuses in _STATUSES):
        return f"answered with the status {status}, which there is not"
    if encoding_of(response):
        return "compressed its answer, although it was told not to"
    return None


def _outgoing_path(path: str) -> str:
    """A decoded path, encoded again. Raises: ApiError where it leads out of `/v1`, to what is not ours."""
    if {".", ".."} & set(path.split("/")):
        raise ApiError(404, "there is no such path", code="not_found")
    return quote(path, safe="/:@")
