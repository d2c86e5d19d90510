"""One answer of a chat request: the engine's deltas into content, calls and the reason of the end."""

from __future__ import annotations

import secrets
from typing import Any

from wrinklefree_inference.http.responses import AssistantMessage, CallOfFunction, ChatFinishReason, ToolCall
from wrinklefree_inference.native.request import Delta
from wrinklefree_inference.tool_calls.forms import ToolForm
from wrinklefree_inference.tool_calls.reading import (
    CallBegun,
    CallEnded,
    CallGoesOn,
    CallReader,
    Content,
    Part,
)


class ChatAnswer:
    """Takes deltas one after another, either for the whole (`add`) or for a stream (`changes`).

    Args:
        form: How the model writes calls; None where the answer is content alone.
        must_call: The answer begins with a call.
    """

    def __init__(self, form: ToolForm | None, must_call: bool = False) -> None:
        self._reader = None if form is None else CallReader(form, must_call)
        self._form = form
        self._texts: list[str] = []
        self._calls: list[tuple[str, str, list[str]]] = []  # id, name, pieces of the arguments
        self.reason: ChatFinishReason = "stop"

    def add(self, delta: Delta) -> list[Part]:
        """Take a delta; what it adds."""
        parts = self._parts(delta)
        for part in parts:
            match part:
                case Content(text):
                    self._texts.append(text)
                case CallBegun(_, name):
                    self._calls.append((self._new_id(), name, []))
                case CallGoesOn(index, arguments):
                    self._calls[index][2].append(arguments)
        if delta.finish_reason is not None:
            is_called = self._reader is not None and self._reader.has_whole_calls
            self.reason = "tool_calls" if is_called and delta.finish_reason == "stop" else delta.finish_reason
        return parts

    def changes(self, delta: Delta) -> list[dict[str, Any]]:
        """Take a delta; what it adds, as OpenAI's streams say it."""
        return [self._change(part) for part in self.add(delta) if not isinstance(part, CallEnded)]

    def call(self, index: int) -> ToolCall:
        """Call number `index`, as far as it has come."""
        call_id, name, arguments = self._calls[index]
        return ToolCall(id=call_id, function=CallOfFunction(name=name, arguments="".join(arguments)))

    def written(self, index: int) -> str:
        """The text of a call that was cut short, as the model has written it."""
        assert self._form is not None
        function = self.call(index).function
        return f"{self._form.opening}{function.name}{self._form.middle}{function.arguments}"

    def message(self) -> AssistantMessage:
        """The whole."""
        content = "".join(self._texts)
        calls = [self.call(index) for index in range(len(self._calls))]
        return AssistantMessage(content=content if content or not calls else None, tool_calls=calls or None)

    def _parts(self, delta: Delta) -> list[Part]:
        if self._reader is None:
            return [Content(delta.text)] if delta.text else []
        parts = self._reader.feed(delta.text)
        return parts + self._reader.finish() if delta.finish_reason is not None else parts

    def _change(self, part: Content | CallBegun | CallGoesOn) -> dict[str, Any]:
        match part:
            case Content(text):
                return {"content": text}
            case CallBegun(index, name):
                begun = {"index": index, "id": self._calls[index][0], "type": "function"}
                return {"tool_calls": [begun | {"function": {"name": name, "arguments": ""}}]}
            case CallGoesOn(index, arguments):
                return {"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}

    def _new_id(self) -> str:
        has_short_ids = self._form is not None and self._form.short_ids
        return secrets.token_hex(5)[:9] if has_short_ids else f"call_{secrets.token_hex(12)}"
