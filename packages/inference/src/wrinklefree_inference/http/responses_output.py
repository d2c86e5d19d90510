"""The output of a response: its items, made of deltas as they come, and the events that tell of them.

An answer is a message, calls of functions, or a message and then calls. A message has one part, its text.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

from wrinklefree_inference.http.chat_answers import ChatAnswer
from wrinklefree_inference.http.responses_bodies import OutputFunctionCall, OutputMessage, OutputText
from wrinklefree_inference.http.responses_input import Status
from wrinklefree_inference.native.request import Delta
from wrinklefree_inference.tool_calls.reading import CallBegun, CallEnded, CallGoesOn, Content, Part

Event = tuple[str, dict[str, Any]]
"""Its name without `response.`, and its fields."""


class Output:
    """The items of one answer; the last may still be in progress."""

    def __init__(self, answer: ChatAnswer) -> None:
        self._answer = answer
        self._items: list[_Message | _Call] = []

    def add(self, delta: Delta) -> list[Event]:
        """Take a delta; what happens by it."""
        events = [event for part in self._answer.add(delta) for event in self._of(part)]
        if delta.finish_reason is not None:
            if not self._items:
                events += self._begin(_Message())
            is_whole = delta.finish_reason == "stop" and isinstance(self._items[-1], _Message)
            events += self._end("completed" if is_whole else "incomplete")
        return events

    def bodies(self) -> list[OutputMessage | OutputFunctionCall]:
        """The items, as far as they have come."""
        return [item.body() for item in self._items]

    def break_off(self) -> None:
        """Nothing more comes."""
        list(self._end("incomplete"))

    def _of(self, part: Part) -> Iterator[Event]:
        match part:
            case Content(text):
                if not (self._items and isinstance(self._items[-1], _Message)):
                    yield from self._begin(_Message())
                message = self._items[-1]
                assert isinstance(message, _Message)
                message.texts.append(text)
                yield (
                    "output_text.delta",
                    {**self._place(), "content_index": 0, "delta": text, "logprobs": []},
                )
            case CallBegun(index):
                yield from self._end("completed")
                yield from self._begin(_Call(self._answer, index))
            case CallGoesOn(_, arguments):
                yield "function_call_arguments.delta", {**self._place(), "delta": arguments}
            case CallEnded():
                yield from self._end("completed")

    def _begin(self, item: _Message | _Call) -> Iterator[Event]:
        self._items.append(item)
        yield "output_item.added", {"output_index": len(self._items) - 1, "item": item.body().model_dump()}
        if isinstance(item, _Message):
            yield "content_part.added", {**self._place(), "content_index": 0, "part": _part("")}

    def _end(self, status: Status) -> Iterator[Event]:
        """End the last item, if it is in progress."""
        if not self._items or self._items[-1].status != "in_progress":
            return
        item = self._items[-1]
        item.status = status
        if isinstance(item, _Message):
            place, text = {**self._place(), "content_index": 0}, "".join(item.texts)
            yield "output_text.done", {**place, "text": text, "logprobs": []}
            yield "content_part.done", {**place, "part": _part(text)}
        else:
            called = item.body()
            told = {"name": called.name, "arguments": called.arguments}
            yield "function_call_arguments.done", {**self._place(), **told}
        yield "output_item.done", {"output_index": len(self._items) - 1, "item": item.body().model_dump()}

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._items[-1].id, "output_index": len(self._items) - 1}


class _Message:
    def __init__(self) -> None:
        self.id = f"msg_{uuid.uuid4().hex}"
        self.status: Status = "in_progress"
        self.texts: list[str] = []

    def body(self) -> OutputMessage:
        """Without content as long as there is none."""
        has_content = self.texts or self.status != "in_progress"
        content = [OutputText(text="".join(self.texts))] if has_content else []
        return OutputMessage(id=self.id, status=self.status, content=content)


class _Call:
    def __init__(self, answer: ChatAnswer, index: int) -> None:
        self.id = f"fc_{uuid.uuid4().hex}"
        self.status: Status = "in_progress"
        self._answer, self._index = answer, index

    def body(self) -> OutputFunctionCall:
        """With the arguments that have come."""
        call = self._answer.call(self._index)
        name, arguments = call.function.name, call.function.arguments
        return OutputFunctionCall(
            id=self.id, status=self.status, call_id=call.id, name=name, arguments=arguments
        )


def _part(text: str) -> dict[str, Any]:
    return OutputText(text=text).model_dump()
