"""Items of the `input` of /v1/responses: what was said, called and returned before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from wrinklefree_inference.http.requests import Text, Unsupported
from wrinklefree_inference.http.tool_fields import CalledFunction
from wrinklefree_inference.http.unknown_fields import Strict

MAX_ITEMS = 2048
_KINDS = ("message", "function_call", "function_call_output")
Status = Literal["in_progress", "completed", "incomplete"]
CallId = Annotated[Text, Field(min_length=1, max_length=256)]


class ContentPart(Strict):
    """Text of a message; what a response's own parts have besides may be there, but empty.

    `parsed`, which OpenAI's client sends back with it, has no effect.
    """

    place: ClassVar[str] = "input[].content[]."
    type: Literal["input_text", "output_text"]
    text: Text
    annotations: Unsupported = None
    logprobs: Unsupported = None
    parsed: Any = None


Content = Text | Annotated[list[ContentPart], Field(fail_fast=True, min_length=1, max_length=MAX_ITEMS)]


class MessageItem(Strict):
    """A turn: the client's own, or one that a response had. `id` and `status` have no effect."""

    place: ClassVar[str] = "input[]."
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    id: str | None = None
    status: Status | None = None
    phase: str | None = None


class FunctionCallItem(CalledFunction):
    """A call that a response had; its output is an item with the same `call_id`."""

    place: ClassVar[str] = "input[]."
    type: Literal["function_call"]
    call_id: CallId
    id: str | None = None
    status: Status | None = None
    namespace: Unsupported = None


class FunctionCallOutputItem(Strict):
    """What a function has returned, as text."""

    place: ClassVar[str] = "input[]."
    type: Literal["function_call_output"]
    call_id: CallId
    output: Content
    id: str | None = None
    status: Status | None = None


def _kind(item: Any) -> str | None:
    """In parentheses: in the place of an error, what is no name is left out."""
    kind = item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", None)
    return f"({kind})" if kind in _KINDS and isinstance(kind, str) else None


Item = Annotated[
    Annotated[MessageItem, Tag("(message)")]
    | Annotated[FunctionCallItem, Tag("(function_call)")]
    | Annotated[FunctionCallOutputItem, Tag("(function_call_output)")],
    Discriminator(
        _kind,
        custom_error_type="unsupported_item",
        custom_error_message="must be an object of a type that this server takes: " + ", ".join(_KINDS),
    ),
]


def messages_of(items: Sequence[MessageItem | FunctionCallItem | FunctionCallOutputItem]) -> list[Any]:
    """The messages that /v1/chat/completions has for them.

    Calls belong to the assistant's message before them, so that calls made at once stay one turn.
    """
    messages: list[dict[str, Any]] = []
    for item in items:
        match item:
            case MessageItem():
                messages.append({"role": item.role, "content": _content(item.content)})
            case FunctionCallOutputItem():
                output = {"tool_call_id": item.call_id, "content": _content(item.output)}
                messages.append({"role": "tool", **output})
            case FunctionCallItem():
                if not messages or messages[-1]["role"] != "assistant":
                    messages.append({"role": "assistant", "content": None})
                function = {"name": item.name, "arguments": item.arguments}
                messages[-1].setdefault("tool_calls", []).append({"id": item.call_id, "function": function})
    return messages


def _content(content: str | list[ContentPart]) -> Any:
    if isinstance(content, str):
        return content
    return [{"type": "text", "text": part.text} for part in content]
