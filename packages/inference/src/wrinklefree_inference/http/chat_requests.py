"""POST /v1/chat/completions: its body."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from wf_formats.chat_template import RESERVED_VARIABLES
from wrinklefree_inference.http.requests import (
    ABSENT,
    SamplingFields,
    Text,
    Unsupported,
    bounds_of,
    misused,
    none_if_empty,
)
from wrinklefree_inference.http.tool_fields import CallOfTurn, ResponseFormat, ToolChoice, Tools
from wrinklefree_inference.http.unknown_fields import Strict

_MAX_MESSAGES = 2048  # OpenAI's limit
MAX_CALLS = 128


def _is_small(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > 16:  # OpenAI's limit
        raise ValueError("at most 16 entries")
    return value


def _is_superseded(value: Any) -> Any:
    if none_if_empty(value) is not None:
        raise PydanticCustomError(
            "superseded", "this server does not support it: use tools", {"code": "unsupported"}
        )
    return None


def _are_no_values_of_ours(value: Any) -> Any:
    taken = sorted(RESERVED_VARIABLES & value.keys()) if isinstance(value, dict) else []
    if taken:
        raise ValueError(f"{taken[0]} is the server's to set")
    return value


TemplateVariables = Annotated[dict[str, Any], BeforeValidator(_are_no_values_of_ours)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
Superseded = Annotated[None, BeforeValidator(_is_superseded), WithJsonSchema({"anyOf": ABSENT})]
Calls = Annotated[
    Annotated[list[CallOfTurn], Field(fail_fast=True, max_length=MAX_CALLS)] | None,
    BeforeValidator(none_if_empty),
]


class TextPart(Strict):
    """A piece of a message; only text is supported."""

    place: ClassVar[str] = "messages[].content[]."
    type: Literal["text"]
    text: Text


class ChatMessage(Strict):
    """One turn.

    The assistant's may have calls and no content; the role `tool` says what a call has returned.
    `name` has no effect, nor has `parsed`, which OpenAI's client sends back with an assistant's turn; what
    else it sends back may be there, but empty.
    """

    place: ClassVar[str] = "messages[]."
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: (
        Text | Annotated[list[TextPart], Field(fail_fast=True, min_length=1, max_length=_MAX_MESSAGES)] | None
    ) = None
    name: str | None = None
    tool_calls: Calls = None
    tool_call_id: Annotated[Text, Field(min_length=1, max_length=256)] | None = None
    parsed: Any = None
    refusal: Unsupported = None
    audio: Unsupported = None
    annotations: Unsupported = None
    function_call: Superseded = None

    @model_validator(mode="after")
    def _has_what_its_role_has(self) -> ChatMessage:
        if self.tool_calls and self.role != "assistant":
            raise misused("tool_calls", "only the assistant calls")
        if self.content is None and not self.tool_calls:
            raise misused("content", "needed, except with tool_calls")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            rule = "only in a message of the role tool" if self.tool_call_id else "needed: it names the call"
            raise misused("tool_call_id", rule)
        return self

    def for_template(self) -> dict[str, Any]:
        """The turn as chat templates know it: a developer is a system, parts are joined by line breaks."""
        role = "system" if self.role == "developer" else self.role
        content = self.content or ""
        if not isinstance(content, str):
            content = "\n".join(part.text for part in content)
        turn: dict[str, Any] = {"role": role, "content": content}
        if self.tool_calls:
            turn["tool_calls"] = [call.for_template() for call in self.tool_calls]
        if self.tool_call_id is not None:
            turn["tool_call_id"] = self.tool_call_id
        return turn


class ChatRequest(SamplingFields):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(fail_fast=True, min_length=1, max_length=_MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, bounds_of("max_completion_tokens")] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, bounds_of("top_logprobs")] | None = None
    response_format: ResponseFormat | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice = None
    parallel_tool_calls: bool | None = None
    modalities: Annotated[list[Literal["text"]], Field(fail_fast=True, max_length=1)] | None = None
    functions: Superseded = None
    function_call: Superseded = None
    audio: Unsupported = None
    prediction: Unsupported = None
    reasoning_effort: Annotated[Effort | None, BeforeValidator(none_if_empty)] = None
    chat_template_kwargs: TemplateVariables | None = None
    verbosity: Unsupported = None
    web_search_options: Unsupported = None

    metadata: Annotated[dict[str, Any], BeforeValidator(_is_small)] | None = None
    store: bool | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise misused("top_logprobs", "only with logprobs: true")
        if None not in (self.max_tokens, self.max_completion_tokens):
            raise misused("max_tokens", "give either it or max_completion_tokens")
        for field in ("max_tokens", "max_completion_tokens"):
            if getattr(self, field) == 0:
                raise misused(field, "must be at least 1, or -1 for all that fits, got 0")
        return self

    @model_validator(mode="after")
    def _can_be_called(self) -> ChatRequest:
        choice = self.tool_choice
        names = [tool.function.name for tool in self.tools or ()]
        if choice is None or choice.type in ("none", "auto"):
            return self
        if not names:
            raise misused("tool_choice", "only with tools")
        for name in choice.names or ():
            if name not in names:
                raise misused("tool_choice", f"{name} is none of the tools")
        return self

    @property
    def template_variables(self) -> dict[str, Any]:
        """What the chat template gets beside the messages.

        `reasoning_effort` under its name, for templates that know it; none and minimal also as
        `enable_thinking: false`, which Qwen 3's know. What `chat_template_kwargs` says counts first.
        """
        variables: dict[str, Any] = {}
        if self.reasoning_effort is not None:
            variables["reasoning_effort"] = self.reasoning_effort
        if self.reasoning_effort in ("none", "minimal"):
            variables["enable_thinking"] = False
        return variables | (self.chat_template_kwargs or {})
