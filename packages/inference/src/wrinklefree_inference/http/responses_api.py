"""POST /v1/responses: OpenAI's newer form of a chat, without its storage.

Every request has the whole conversation: no response is kept, `store` in the answer says so, and
`previous_response_id` is refused. A stream has the events that the official client's helpers read: the
response begins, items are added, text or arguments come, items are closed (`responses_output.py`), it ends.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from wrinklefree_inference.http.answer_rules import FieldNames
from wrinklefree_inference.http.call_results import check_results
from wrinklefree_inference.http.chat import chat_generation
from wrinklefree_inference.http.chat_answers import ChatAnswer
from wrinklefree_inference.http.chat_requests import ChatRequest
from wrinklefree_inference.http.errors import ApiError
from wrinklefree_inference.http.generation import Arrivals, Generation
from wrinklefree_inference.http.handlers import handler
from wrinklefree_inference.http.json_pieces import encoded
from wrinklefree_inference.http.responses import CompletionUsage
from wrinklefree_inference.http.responses_bodies import (
    IncompleteDetails,
    InputDetails,
    ResponseError,
    ResponseObject,
    ResponseRequest,
    ResponseUsage,
)
from wrinklefree_inference.http.responses_output import Event, Output
from wrinklefree_inference.http.service import EVENT_STREAM, GENERATION_ERRORS, Service, respond
from wrinklefree_inference.http.sse import KEEP_ALIVE
from wrinklefree_inference.http.translated import chat_request
from wrinklefree_inference.native.request import Delta, FinishReason, SamplingParams

_LIMIT = "max_output_tokens"
_NAMES = {"messages": "input", "max_completion_tokens": _LIMIT, "response_format": "text.format"}
_FIELDS = FieldNames("input", "tools[{}].parameters", "text.format", "text.format.schema")
_SAME = (
    *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "ignore_eos"),
    *("threshold", "sub_block", "stream"),
)


@handler(ResponseRequest, ResponseObject, {200: EVENT_STREAM, **GENERATION_ERRORS})
async def responses(service: Service, http: Request, body: ResponseRequest) -> Response:
    """The assistant's next turn, whole or as server-sent events (`stream`)."""
    check_results(body.calls_and_results())
    chat = _as_chat(body)
    generation, (answer,) = await chat_generation(service, http, chat, _FIELDS)
    form = ResponseForm(body, answer)
    return await respond(http, chat, generation, form, form)


def _as_chat(body: ResponseRequest) -> ChatRequest:
    fields = {name: getattr(body, name) for name in _SAME}
    fields |= {
        "model": body.model,
        "messages": body.conversation_messages(),
        "max_completion_tokens": body.max_output_tokens,
        "response_format": body.text.format.for_chat() if body.text and body.text.format else None,
        "tools": [tool.for_chat() for tool in body.tools or ()] or None,
        "tool_choice": body.tool_choice.for_chat() if body.tool_choice else None,
        "parallel_tool_calls": body.parallel_tool_calls,
        "stream_options": {"include_usage": True} if body.stream else None,
    }
    return chat_request(fields, _NAMES)


class ResponseForm:
    """The whole of a response, or its events; also the `Wire` that writes them, each under its name."""

    media_type = "text/event-stream"
    end = b""

    def __init__(self, body: ResponseRequest, answer: ChatAnswer) -> None:
        defaults = SamplingParams()
        self._body = body
        self._temperature = defaults.temperature if body.temperature is None else body.temperature
        self._top_p = defaults.top_p if body.top_p is None else body.top_p
        self._id = f"resp_{uuid.uuid4().hex}"
        self._created_at = int(time.time())
        self._output = Output(answer)
        self._reason: FinishReason = "stop"
        self._num_events = 0

    def add(self, batch: Arrivals) -> None:
        """Take what came."""
        for _, delta in batch:
            self._take(delta)

    def whole(self, generation: Generation) -> dict[str, Any]:
        """The response object."""
        return self._ended(generation.usage)

    def chunks(self, batch: Arrivals) -> Iterator[dict[str, Any]]:
        """The events of what came, with those around it."""
        for _, delta in batch:
            for name, fields in self._take(delta):
                yield self._event(name, **fields)

    def usage_chunk(self, usage: CompletionUsage) -> dict[str, Any]:
        """The response, which has ended."""
        ended = self._ended(usage)
        return self._event(ended["status"], response=ended)

    def opening(self) -> bytes:
        """The response, which has begun."""
        begun = self._response("in_progress")
        return b"".join(self.frame(self._event(name, response=begun)) for name in ("created", "in_progress"))

    def frame(self, event: Mapping[str, Any]) -> bytes:
        """An event under its name."""
        return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), encoded(event))

    def keep_alive(self) -> bytes:
        """A comment."""
        return KEEP_ALIVE

    def failure(self, error: ApiError) -> bytes:
        """The response, which has failed, and an error: the official client raises that."""
        told = error.body["error"]
        self._output.break_off()
        reason = ResponseError(code=told["code"] or "server_error", message=told["message"])
        failed = self._event("failed", response=self._response("failed", error=reason))
        ending = {"type": "error", "sequence_number": self._num_events, "error": told}
        return self.frame(failed) + self.frame(
            ending | {name: told[name] for name in ("code", "message", "param")}
        )

    def _take(self, delta: Delta) -> list[Event]:
        self._reason = delta.finish_reason or self._reason
        return self._output.add(delta)

    @property
    def _status(self) -> Literal["completed", "incomplete"]:
        return "incomplete" if self._reason == "length" else "completed"

    def _ended(self, usage: CompletionUsage) -> dict[str, Any]:
        status = self._status
        return self._response(
            status,
            incomplete_details=IncompleteDetails() if status == "incomplete" else None,
            usage=ResponseUsage(
                input_tokens=usage.prompt_tokens,
                input_tokens_details=InputDetails(cached_tokens=usage.prompt_tokens_details.cached_tokens),
                output_tokens=usage.completion_tokens,
                total_tokens=usage.total_tokens,
            ),
        )

    def _response(self, status: Any, **more: Any) -> dict[str, Any]:
        body = self._body
        return ResponseObject(
            id=self._id,
            created_at=self._created_at,
            status=status,
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            model=body.model,
            output=self._output.bodies(),
            temperature=self._temperature,
            top_p=self._top_p,
            text={"format": body.text.format.told() if body.text and body.text.format else {"type": "text"}},
            tools=[tool.told() for tool in body.tools or ()],
            tool_choice=body.tool_choice.told() if body.tool_choice else "auto",
            parallel_tool_calls=body.parallel_tool_calls is not False,
            metadata=body.metadata or {},
            user=body.user,
            **more,
        ).model_dump()

    def _event(self, name: str, /, **fields: Any) -> dict[str, Any]:
        event = {"type": f"response.{name}", "sequence_number": self._num_events, **fields}
        self._num_events += 1
        return event
