"""Messages of Ollama's chats. Calls and results need no ids: order or names say what belongs together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from wrinklefree_inference.http.chat_requests import MAX_CALLS
from wrinklefree_inference.http.requests import Text, Unsupported, misused
from wrinklefree_inference.http.tool_fields import Name
from wrinklefree_inference.http.unknown_fields import Strict


class OllamaCalledFunction(Strict):
    """What was called, with arguments as an object; `index` has no effect."""

    place: ClassVar[str] = "messages[].tool_calls[].function."
    name: Name
    arguments: dict[str, Any] = Field(default_factory=dict)
    index: int | None = None


class OllamaCall(Strict):
    """A call of an earlier turn. Where it has no id, the order says which result is its own."""

    place: ClassVar[str] = "messages[].tool_calls[]."
    function: OllamaCalledFunction
    type: Literal["function"] | None = None
    id: Text | None = None


class OllamaMessage(Strict):
    """A turn; in one of the role `tool`, `tool_name` (once `name`) or `tool_call_id` says of which call."""

    place: ClassVar[str] = "messages[]."
    role: Literal["system", "user", "assistant", "tool"]
    content: Annotated[Text, BeforeValidator(lambda value: "" if value is None else value)] = ""
    tool_calls: Annotated[list[OllamaCall], Field(fail_fast=True, max_length=MAX_CALLS)] | None = None
    tool_name: Text | None = None
    name: Text | None = None
    tool_call_id: Text | None = None
    images: Unsupported = None
    thinking: Unsupported = None

    @model_validator(mode="after")
    def _has_what_its_role_has(self) -> OllamaMessage:
        if self.tool_calls and self.role != "assistant":
            raise misused("tool_calls", "only the assistant calls")
        return self


def turns_of(messages: Sequence[OllamaMessage]) -> list[dict[str, Any]]:
    """The same for /v1/chat/completions: each call has an id, each result that of its call."""
    waiting: list[tuple[str, str]] = []  # name and id of calls that have no result yet
    return [_turn(message, number, waiting) for number, message in enumerate(messages)]


def _turn(message: OllamaMessage, number: int, waiting: list[tuple[str, str]]) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.role == "tool":
        return turn | {"tool_call_id": _answered(message, number, waiting)}
    if not message.tool_calls:
        return turn
    calls = []
    for i, call in enumerate(message.tool_calls):
        name, id_ = call.function.name, call.id or f"call_{number}_{i}"
        calls.append(
            {"id": id_, "function": {"name": name, "arguments": json.dumps(call.function.arguments)}}
        )
        waiting.append((name, id_))
    return turn | {"tool_calls": calls}


def _answered(message: OllamaMessage, number: int, waiting: list[tuple[str, str]]) -> str:
    """Id of the call whose result it is: the one it names, else the first that waits for a result."""
    name = message.tool_name or message.name
    wanted = ((message.tool_call_id or id_) == id_ and (name or called) == called for called, id_ in waiting)
    found = next((i for i, is_wanted in enumerate(wanted) if is_wanted), None)
    return waiting.pop(found)[1] if found is not None else message.tool_call_id or f"call_{number}"
