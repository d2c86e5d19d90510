"""Answers of Ollama's generating paths, whole or a JSON object a line."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from starlette.requests import Request

from wrinklefree_inference.http.chat_answers import ChatAnswer
from wrinklefree_inference.http.errors import ApiError
from wrinklefree_inference.http.generation import Arrivals, Generation
from wrinklefree_inference.http.json_pieces import Encoded, pieces
from wrinklefree_inference.http.record import record_of
from wrinklefree_inference.http.responses import CompletionUsage, ToolCall
from wrinklefree_inference.native.request import Delta, FinishReason
from wrinklefree_inference.tool_calls.reading import CallBegun, CallEnded, Content

Kind = Literal["chat", "generate"]


class OllamaForm:
    """The lines of an answer, or the whole; also the `Wire` that writes them."""

    media_type = "application/x-ndjson"
    end = b""

    def __init__(self, kind: Kind, model: str, http: Request) -> None:
        self.model = model
        self._kind, self._record = kind, record_of(http.scope)
        self._answer = ChatAnswer(form=None)
        self._open_call: int | None = None
        self._texts: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._reason: FinishReason = "stop"
        self._queued_s = time.perf_counter()
        self._first_s: float | None = None

    def queued(self, answer: ChatAnswer) -> OllamaForm:
        """The same, once the request has been given to the engine; `answer` makes content and calls of it."""
        self._answer = answer
        self._queued_s = time.perf_counter()
        return self

    def add(self, batch: Arrivals) -> None:
        """Take what came."""
        for _, delta in batch:
            for piece in self._pieces(delta):
                if isinstance(piece, str):
                    self._texts.append(piece)
                else:
                    self._calls.append(piece)

    def whole(self, generation: Generation) -> dict[str, Any]:
        """The response body."""
        return self._line("".join(self._texts), self._calls) | self._counts(generation.usage)

    def chunks(self, batch: Arrivals) -> Iterator[dict[str, Any]]:
        """A line for each piece of text, and for each call once it is whole."""
        for _, delta in batch:
            for piece in self._pieces(delta):
                yield self._line(piece) if isinstance(piece, str) else self._line("", [piece])

    def usage_chunk(self, usage: CompletionUsage) -> dict[str, Any]:
        """The last line."""
        return self._line("") | self._counts(usage)

    def loaded(self) -> dict[str, Any]:
        """The answer to a request that asks nothing."""
        return self._line("") | {"done": True, "done_reason": "load"}

    def opening(self) -> bytes:
        """Nothing."""
        return b""

    def frame(self, event: Mapping[str, Any]) -> bytes:
        """A line."""
        return b"".join(pieces(event)) + b"\n"

    def keep_alive(self) -> bytes:
        """A line without text: clients read each line as JSON."""
        return self.frame(self._line(""))

    def failure(self, error: ApiError) -> bytes:
        """A line with the error, which clients raise."""
        return self.frame(error.body_for("/api/"))

    def _pieces(self, delta: Delta) -> Iterator[str | dict[str, Any]]:
        """Text and whole calls. A call that is cut short has no object of arguments: it stays text."""
        self._first_s = self._first_s or time.perf_counter()
        self._reason = delta.finish_reason or self._reason
        for part in self._answer.add(delta):
            match part:
                case Content(text):
                    yield text
                case CallBegun(index):
                    self._open_call = index
                case CallEnded(index):
                    self._open_call = None
                    yield _call(index, self._answer.call(index))
        if delta.finish_reason is not None and self._open_call is not None:
            yield self._answer.written(self._open_call)

    def _line(self, text: str, calls: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
        line: dict[str, Any] = {"model": self.model, "created_at": timestamp(time.time()), "done": False}
        if self._kind == "chat":
            message: dict[str, Any] = {"role": "assistant", "content": text}
            return line | {"message": message | {"tool_calls": list(calls)} if calls else message}
        return line | {"response": text}

    def _counts(self, usage: CompletionUsage) -> dict[str, Any]:
        now_s = time.perf_counter()
        first_s = self._first_s or now_s
        return {
            "done": True,
            "done_reason": self._reason,
            "total_duration": nanoseconds(self._record.duration_s),
            "load_duration": 0,
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": nanoseconds(first_s - self._queued_s),
            "eval_count": usage.completion_tokens,
            "eval_duration": nanoseconds(now_s - first_s),
        }


def _call(index: int, call: ToolCall) -> dict[str, Any]:
    """An `OllamaCallOfAnswer`, on one line: line breaks are between the values of JSON alone."""
    arguments = call.function.arguments.replace("\n", " ").replace("\r", " ")
    function = {"index": index, "name": call.function.name, "arguments": Encoded(arguments.encode())}
    return {"id": call.id, "function": function}


def timestamp(unix_s: float) -> str:
    """As Ollama writes times."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat().replace("+00:00", "Z")


def nanoseconds(seconds: float) -> int:
    """As Ollama writes durations."""
    return round(seconds * 1e9)
