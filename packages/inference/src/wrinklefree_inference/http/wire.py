"""How the events of a streamed answer are written: OpenAI's chunks here, other forms beside their routes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from wrinklefree_inference.http.errors import ApiError
from wrinklefree_inference.http.sse import DONE, KEEP_ALIVE, frame


class Wire(Protocol):
    """Of one answer."""

    @property
    def media_type(self) -> str:
        """Of the response."""

    def opening(self) -> bytes:
        """What is sent before anything has come; may be empty."""

    @property
    def end(self) -> bytes:
        """What closes a stream that is whole."""

    def frame(self, event: Mapping[str, Any], /) -> bytes:
        """One event."""

    def keep_alive(self) -> bytes:
        """What is sent when nothing has come for a while."""

    def failure(self, error: ApiError, /) -> bytes:
        """What ends a stream that cannot go on."""


class _Chunks:
    """Server-sent events without names, and `[DONE]`."""

    media_type = "text/event-stream"
    end = DONE

    def opening(self) -> bytes:
        return b""

    def frame(self, event: Mapping[str, Any]) -> bytes:
        return frame(event)

    def keep_alive(self) -> bytes:
        return KEEP_ALIVE

    def failure(self, error: ApiError) -> bytes:
        return frame(error.body)


CHUNKS: Wire = _Chunks()
"""Chat completions and completions."""
