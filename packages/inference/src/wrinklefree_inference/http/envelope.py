"""What stands around the choices of an answer, whole or streamed: id, time, model and tokens used."""

from __future__ import annotations

import time
import uuid
from typing import Any

from wrinklefree_inference.http.responses import CompletionUsage


class Envelope:
    """Of one answer; made when it begins.

    Args:
        prefix: The id is this and a random number.
        chunk_kind: `object` of a streamed event.
        model: Name that the client asked for.
        has_usage: Whether the stream says the tokens used, in an event of its own (null in the others).
    """

    def __init__(self, prefix: str, chunk_kind: str, model: str, has_usage: bool) -> None:
        self.id = f"{prefix}-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.model = model
        self._chunk_kind, self._has_usage = chunk_kind, has_usage

    def chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """An event of the stream."""
        chunk = {
            "id": self.id,
            "object": self._chunk_kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }
        return chunk | {"usage": None} if self._has_usage else chunk

    def usage_chunk(self, usage: CompletionUsage) -> dict[str, Any]:
        """The event with no choices, only tokens."""
        return self.chunk([]) | {"usage": usage.model_dump()}
